"""Entry point of the command: its subcommands, and errors as one line each."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

import typer
from typer.exceptions import Abort, Exit, TyperException

from lapse import __version__
from lapse.cli.adopt_command import adopt, unadopt
from lapse.cli.doctor_command import doctor
from lapse.cli.health_command import health
from lapse.cli.migrate_command import migrate
from lapse.cli.preview_command import preview
from lapse.cli.purge_command import purge
from lapse.cli.replay_command import replay
from lapse.cli.status_command import status
from lapse.cli.streams import discard_unwritten, open_closed_streams, tell
from lapse.cli.worker_command import worker
from lapse.errors import BacklogError, InvalidInputError, LapseError, ListenError, SettingsError
from lapse.validation import parse_log_level

FAILURE = 1
WRONG_USE = 2
INTERRUPTED = 130
"""128 + SIGINT, as in shells."""

app = typer.Typer(
    name="lapse",
    help="One live conversation per pair of addresses; idle and expired ones end on time, exactly once.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (worker, migrate, status, adopt, unadopt, health, doctor, preview, purge, replay):
    app.command()(command)


def _show_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"lapse {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: bool = typer.Option(
        False, "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
    ),
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(WRONG_USE)


def main() -> NoReturn:
    """Run the command and exit: 0 for success, 1 for a failure, 2 for wrong use."""
    open_closed_streams()
    try:
        code = app(prog_name="lapse", standalone_mode=False)
    except Exit as error:
        code = error.exit_code
    except TyperException as error:
        code = _report(error.format_message(), error.exit_code)
    except (Abort, KeyboardInterrupt):
        code = _report("interrupted", INTERRUPTED)
    except (SettingsError, InvalidInputError, ListenError, BacklogError) as error:
        code = _report(str(error), WRONG_USE)
    except LapseError as error:
        code = _report(str(error), FAILURE)
    except BrokenPipeError:
        code = FAILURE  # the reader of the output has gone; nobody is left to report to
    except OSError as error:
        code = _report(f"reading or writing failed: {error.strerror}", FAILURE)
    except Exception as error:
        code = _report(f"internal error: {type(error).__name__} (LOG_LEVEL=DEBUG shows where)", FAILURE)
    discard_unwritten()
    # Skip the final garbage collection over all imported modules: it takes most of the time of a stop.
    gc.freeze()
    sys.exit(code)


def _report(message: str, code: int) -> int:
    """Write one line to standard error, after a traceback if LOG_LEVEL is DEBUG; return the exit code."""
    with suppress(InvalidInputError):
        if parse_log_level(os.environ.get("LOG_LEVEL") or "INFO") == "DEBUG":
            tell(traceback.format_exc().rstrip())
    tell(f"lapse: {' '.join(message.split())}")
    return code

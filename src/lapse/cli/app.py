"""Entry point of the command: its subcommands, and errors as one line each."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from typing import NoReturn

import typer
from typer.exceptions import Abort, Exit, TyperException

from lapse import __version__
from lapse.cli import (
    adopt_command,
    doctor_command,
    health_command,
    migrate_command,
    preview_command,
    purge_command,
    replay_command,
    status_command,
    worker_command,
)
from lapse.cli.streams import discard_unwritten, open_closed_streams, tell
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
app.command("worker")(worker_command.worker)
app.command("migrate")(migrate_command.migrate)
app.command("status")(status_command.status)
app.command("adopt")(adopt_command.adopt)
app.command("unadopt")(adopt_command.unadopt)
app.command("health")(health_command.health)
app.command("doctor")(doctor_command.doctor)
app.command("preview")(preview_command.preview)
app.command("purge")(purge_command.purge)
app.command("replay")(replay_command.replay)


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
    if _wants_traceback():
        tell(traceback.format_exc().rstrip())
    tell(f"lapse: {' '.join(message.split())}")
    return code


def _wants_traceback() -> bool:
    try:
        return parse_log_level(os.environ.get("LOG_LEVEL") or "INFO") == "DEBUG"
    except InvalidInputError:
        return False

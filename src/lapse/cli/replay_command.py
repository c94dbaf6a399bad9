"""`lapse replay`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lapse.cli.databases import configure, naming_url
from lapse.cli.options import AsJson, IdleMinutes, option
from lapse.cli.output import is_unicode, progress_bar
from lapse.cli.streams import tell
from lapse.errors import ReplayError

if TYPE_CHECKING:
    from lapse.replay import MessageLog, ReplaySummary
    from lapse.service import ConversationService
    from lapse.settings import Settings
    from lapse.store import Database
    from lapse.store.chronicle import Chronicle
    from lapse.store.table_mapping import IdKind

PROGRESS_BAR_MESSAGES = 2_000
"""Shorter logs are replayed without a progress bar."""


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", dir_okay=False, exists=True, help="The message log.")],
    idle_minutes: IdleMinutes = None,
    expiration_minutes: Annotated[
        float | None, option("N", "Minutes from start to expiry.", "CONVERSATION_EXPIRATION_MINUTES", "1440")
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(metavar="OUT.csv", dir_okay=False, writable=True, help="Write every transition to this file."),
    ] = None,
    as_json: AsJson = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip bad lines and count them.")] = False,
    owner_type: Annotated[
        str | None, option("TYPE", "Of owner_id: bigint, uuid or text.", default="that of the first message")
    ] = None,
    database_url: Annotated[
        str | None,
        option(
            "URL",
            "Database to use; it must not contain conversations.",
            default="a temporary SQLite file; DATABASE_URL is ignored",
        ),
    ] = None,
) -> None:
    """Replay a message log in virtual time, by the rules of production, to see the effect of timeouts.

    FILE.csv has the columns at, owner_id, from_number, to_number, channel, sender and, optionally, message_id.
    """
    if events is not None and not events.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder of {events} does not exist", param_hint="--events")
    if events is not None and events.exists() and events.samefile(file):
        raise typer.BadParameter(f"{events} is the log itself, which it would overwrite", param_hint="--events")
    from lapse.replay import draw_open_conversations, read_message_log, summarise
    from lapse.store.chronicle import Chronicle

    settings = configure(sys.stderr, idle_timeout_minutes=idle_minutes, expiration_minutes=expiration_minutes)
    with closing(read_message_log(file, _parsed(owner_type))) as log:
        _check_bad_lines(log, file.name, skip_bad=skip_bad)
        with _service_in_virtual_time(database_url, settings, log) as service:
            chronicle = Chronicle(service.database)
            summary = summarise(chronicle, log.messages)
            if events is not None:
                _write_events(chronicle, events)
            if as_json:
                typer.echo(json.dumps(asdict(summary)))
                return
            width = shutil.get_terminal_size().columns
            chart = draw_open_conversations(chronicle, width, is_unicode=is_unicode(sys.stdout))
            typer.echo(f"{_summary_text(summary, settings)}\n\n{chart}")


def _write_events(chronicle: Chronicle, path: Path) -> None:
    from lapse.replay import write_events

    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            write_events(chronicle, out)
    except OSError as error:
        raise ReplayError(f"cannot write {path}: {error.strerror}") from None


def _check_bad_lines(log: MessageLog, name: str, *, skip_bad: bool) -> None:
    first, more = log.first_bad, log.bad_lines - 1
    if first is None:
        return
    if not skip_bad:
        others = f" (and {more} more bad {'line' if more == 1 else 'lines'})" if more else ""
        raise ReplayError(
            f"{name}, line {first.number}: {first.reason}{others}; nothing was loaded (--skip-bad leaves bad lines out)"
        )
    tell(f"left out {more + 1} bad {'line' if not more else 'lines'}, the first is line {first.number}: {first.reason}")


@contextmanager
def _service_in_virtual_time(
    database_url: str | None, settings: Settings, log: MessageLog
) -> Iterator[ConversationService]:
    """Replay the log into an empty database, by default a temporary one, and yield its service."""
    from lapse.replay import VirtualClock
    from lapse.replay import replay as replay_messages
    from lapse.service import ConversationService

    with tempfile.TemporaryDirectory(prefix="lapse-replay-") as folder:
        clock = VirtualClock()
        url = f"sqlite:///{folder}/replay.db" if database_url is None else database_url
        with naming_url(is_option=True):
            service = ConversationService(url, settings=settings, clock=clock)
        with closing(service):
            _prepare(service.database, log.owners.kind)
            if not service.conversation_repo.is_empty():
                raise ReplayError(
                    f"{service.database.safe_url} holds conversations already: virtual time must never reach live "
                    "rows, so use an empty database"
                )
            with _progress(log.messages) as advance:
                replay_messages(service, clock, log, advance)
            yield service


def _parsed(owner_type: str | None) -> IdKind | None:
    from lapse.store.migrate import parse_owner_type

    return None if owner_type is None else parse_owner_type(owner_type)


def _prepare(database: Database, owner_type: IdKind) -> None:
    """Make the schema in a SQLite file without one, and check that it takes the log's owners.

    Raises:
        ReplayError: its owners are of another type.
        LapseError: the database has no schema that lapse can use, or cannot be reached.
    """
    from lapse.store import check_schema, migrate, schema_version

    if database.dialect == "sqlite" and schema_version(database, retry=False) is None:
        migrate(database, owner_type=owner_type)
    check_schema(database, retry=False)
    found = database.shape(retry=False).mapping.kinds["owner_id"]
    if found is not owner_type:
        raise ReplayError(
            f"the log's owners are {owner_type}, those of {database.safe_url} are {found}: use another database, or "
            f"--owner-type {found}"
        )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    if total < PROGRESS_BAR_MESSAGES or not sys.stderr.isatty():
        yield lambda _number: None
        return
    from rich.progress import MofNCompleteColumn, Progress

    text, bar_column, _, remaining_time = Progress.get_default_columns()
    with progress_bar(text, bar_column, MofNCompleteColumn(), remaining_time) as bar:
        task = bar.add_task("messages", total=total)
        yield lambda number: bar.advance(task, number)


def _summary_text(summary: ReplaySummary, settings: Settings) -> str:
    numbers = {name.replace("_", " "): count for name, count in asdict(summary).items()}
    width = max(len(f"{count:,}") for count in numbers.values())
    timeouts = f"idle after {settings.idle_timeout_minutes:g} minutes, expired after {settings.expiration_minutes:g}"
    return "\n".join([timeouts, *(f"{count:>{width},}  {name}" for name, count in numbers.items())])

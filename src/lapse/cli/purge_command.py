"""`lapse purge`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lapse.cli.databases import open_database, require_file
from lapse.cli.options import AsJson, DatabaseUrl, check_option
from lapse.errors import DatabaseError
from lapse.shutdown import Interrupted, StopEvent, stop_on_signals
from lapse.validation import MAX_PURGE_BATCH, check_purge_batch, check_purge_days, check_purge_rate

if TYPE_CHECKING:
    from datetime import datetime

    from lapse.models import PurgeResult
    from lapse.store import Database
    from lapse.store.purge import Purger


def purge(
    closed_before: Annotated[
        float,
        typer.Option(metavar="DAYS", show_default=False, help="Delete what ended more than so many days ago."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be deleted; change nothing.")] = False,
    as_json: AsJson = False,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Conversations per transaction, 1 to 1000.")
    ] = MAX_PURGE_BATCH,
    max_rate: Annotated[
        float | None,
        typer.Option(metavar="N", show_default=False, help="Conversations per second at most. [default: no limit]"),
    ] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Delete closed conversations with their events, for good. Open ones are never touched.

    Safe beside messages, workers and other purges. It may be stopped at any time: the batches before that are done,
    and the next purge goes on from there.
    """
    check_purge_days(closed_before)
    check_option("--batch-size", batch_size, check_purge_batch)
    check_option("--max-rate", max_rate, check_purge_rate)
    flag = StopEvent()
    with stop_on_signals(flag):
        database, _ = open_database(database_url)
        try:
            if dry_run:
                _preview(database, closed_before, flag, as_json=as_json)
            else:
                _purge(database, closed_before, flag, as_json=as_json, batch_size=batch_size, max_rate=max_rate)
        except Interrupted:
            raise typer.Abort from None
        finally:
            database.close()


def _purger(database: Database) -> Purger:
    """Return the purger once the schema is known to be there."""
    from lapse.store import ConversationRepository, check_schema

    require_file(database)
    check_schema(database, retry=False)
    return ConversationRepository(database).purger


def _preview(database: Database, closed_before: float, flag: StopEvent, *, as_json: bool) -> None:
    begin = time.monotonic()
    with flag.interruptible():
        found = _purger(database).preview(closed_before)
    if as_json:
        typer.echo(_as_json(found, begin, is_dry_run=True))
    else:
        typer.echo(f"would delete {_as_text(found)}; nothing was changed")


def _purge(database: Database, closed_before: float, flag: StopEvent, *, as_json: bool, **options: Any) -> None:
    with flag.interruptible():
        purger = _purger(database)
    begin = time.monotonic()
    so_far: list[PurgeResult] = []
    try:
        with _progress() as show:

            def note(done: PurgeResult) -> None:
                so_far[:] = [done]
                show(done)

            result = purger.purge(closed_before, stop_event=flag, on_batch=note, **options)
    except DatabaseError as error:
        if not so_far:
            raise
        raise type(error)(f"{error}; before that it deleted {_as_text(so_far[0])}") from error
    if as_json:
        typer.echo(_as_json(result, begin, is_dry_run=False))
    else:
        rest = "" if result.is_complete else "; the rest is left to the next purge"
        typer.echo(f"deleted {_as_text(result)} in {time.monotonic() - begin:.1f} s{rest}")
    if not result.is_complete:
        raise typer.Abort


@contextmanager
def _progress() -> Iterator[Callable[[PurgeResult], None]]:
    """Yield what shows how far a purge has come: by when conversations ended, since nobody has counted them."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:3],
        TextColumn("{task.fields[deleted]:,} deleted"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("purge", total=None, deleted=0)

        def show(done: PurgeResult) -> None:
            if done.oldest and done.newest:
                total, completed = done.closed_before - done.oldest, done.newest - done.oldest
                bar.update(task, total=total.total_seconds(), completed=completed.total_seconds())
            bar.update(task, deleted=done.conversations)

        yield show


def _as_text(result: PurgeResult) -> str:
    counted = f"{_number(result.conversations, 'conversation')} and {_number(result.events, 'event')}"
    if result.oldest is None or result.newest is None:
        return counted
    return f"{counted} (ended from {_iso(result.oldest)} to {_iso(result.newest)})"


def _as_json(result: PurgeResult, begin: float, *, is_dry_run: bool) -> str:
    values = asdict(result)
    for name in ("closed_before", "oldest", "newest"):
        values[name] = values[name] and _iso(values[name])
    return json.dumps(values | {"dry_run": is_dry_run, "seconds": round(time.monotonic() - begin, 3)})


def _number(count: int, of_what: str) -> str:
    return f"{count:,} {of_what}{'' if count == 1 else 's'}"


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")

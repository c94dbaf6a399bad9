"""`lapse purge`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lapse.cli.databases import open_database, require_file
from lapse.cli.options import AsJson, DatabaseUrl, check_option, option
from lapse.cli.output import counted, iso, progress_bar
from lapse.errors import DatabaseError
from lapse.shutdown import Interrupted, StopEvent, stop_on_signals
from lapse.validation import MAX_PURGE_BATCH, check_purge_batch, check_purge_days, check_purge_rate

if TYPE_CHECKING:
    from lapse.models import PurgeResult
    from lapse.store import Database
    from lapse.store.purger import Purger


def purge(
    closed_before: Annotated[float, option("DAYS", "Delete conversations that ended more than this many days ago.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be deleted; change nothing.")] = False,
    as_json: AsJson = False,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help=f"Conversations per transaction, 1 to {MAX_PURGE_BATCH}.")
    ] = MAX_PURGE_BATCH,
    max_rate: Annotated[float | None, option("N", "Conversations per second at most.", default="no limit")] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Delete closed conversations and their events permanently. Open ones are never touched.

    Safe to run beside messages, workers and other purges. It may be stopped at any time: what is deleted stays deleted,
    and the next purge continues from there.
    """
    check_purge_days(closed_before)
    check_option("--batch-size", batch_size, check_purge_batch)
    check_option("--max-rate", max_rate, check_purge_rate)
    stop_event = StopEvent()
    with stop_on_signals(stop_event), open_database(database_url) as (database, _):
        try:
            if dry_run:
                _preview(database, closed_before, stop_event, as_json=as_json)
            else:
                _purge(database, closed_before, stop_event, as_json=as_json, batch_size=batch_size, max_rate=max_rate)
        except Interrupted:
            raise typer.Abort from None


def _purger(database: Database) -> Purger:
    """Check that the database has its schema, and return its purger.

    Raises:
        SchemaError: it does not have it.
        DatabaseError: it refused, or cannot be reached.
    """
    from lapse.store import ConversationRepository, check_schema

    require_file(database)
    check_schema(database, retry=False)
    return ConversationRepository(database).purger


def _preview(database: Database, closed_before: float, stop_event: StopEvent, *, as_json: bool) -> None:
    begin = time.monotonic()
    with stop_event.interruptible():
        result = _purger(database).preview(closed_before)
    if as_json:
        typer.echo(_as_json(result, begin, is_dry_run=True))
    else:
        typer.echo(f"would delete {_as_text(result)}; nothing was changed")


def _purge(database: Database, closed_before: float, stop_event: StopEvent, *, as_json: bool, **options: Any) -> None:
    with stop_event.interruptible():
        purger = _purger(database)
    begin = time.monotonic()
    totals: list[PurgeResult] = []  # of all batches so far; empty before the first
    try:
        with _progress() as show:

            def on_batch(total: PurgeResult) -> None:
                totals[:] = [total]
                show(total)

            result = purger.purge(closed_before, stop_event=stop_event, on_batch=on_batch, **options)
    except DatabaseError as error:
        if not totals:
            raise
        raise type(error)(f"{error}; before that it deleted {_as_text(totals[0])}") from error
    if as_json:
        typer.echo(_as_json(result, begin, is_dry_run=False))
    else:
        rest = "" if result.is_complete else "; the rest is left to the next purge"
        typer.echo(f"deleted {_as_text(result)} in {time.monotonic() - begin:.1f} s{rest}")
    if not result.is_complete:
        raise typer.Abort


@contextmanager
def _progress() -> Iterator[Callable[[PurgeResult], None]]:
    """Yield a function that shows the progress of a purge: by date, because the conversations are not counted."""
    from rich.progress import Progress, TextColumn

    *columns, remaining_time = Progress.get_default_columns()
    with progress_bar(*columns, TextColumn("{task.fields[deleted]:,} deleted"), remaining_time) as bar:
        task = bar.add_task("purge", total=None, deleted=0)

        def show(total: PurgeResult) -> None:
            if total.oldest and total.newest:
                period, completed = total.closed_before - total.oldest, total.newest - total.oldest
                bar.update(task, total=period.total_seconds(), completed=completed.total_seconds())
            bar.update(task, deleted=total.conversations)

        yield show


def _as_text(result: PurgeResult) -> str:
    counts = f"{counted(result.conversations, 'conversation')} and {counted(result.events, 'event')}"
    if result.oldest is None or result.newest is None:
        return counts
    return f"{counts} (ended from {iso(result.oldest)} to {iso(result.newest)})"


def _as_json(result: PurgeResult, begin: float, *, is_dry_run: bool) -> str:
    seconds = round(time.monotonic() - begin, 3)
    return json.dumps(asdict(result) | {"dry_run": is_dry_run, "seconds": seconds}, default=iso)

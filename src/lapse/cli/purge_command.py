"""`lapse purge`."""

from __future__ import annotations

import json
import time
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
        from lapse.store import ConversationRepository, check_schema

        try:
            with stop_event.interruptible():
                require_file(database)
                check_schema(database, retry=False)
                begin = time.monotonic()
                purger = ConversationRepository(database).purger
                result = purger.preview(closed_before) if dry_run else None
            if result is None:
                result = _purge(purger, closed_before, stop_event=stop_event, batch_size=batch_size, max_rate=max_rate)
        except Interrupted:
            raise typer.Abort from None
        seconds = time.monotonic() - begin
        if as_json:
            values = asdict(result) | {"dry_run": dry_run, "seconds": round(seconds, 3)}
            typer.echo(json.dumps(values, default=iso))
        elif dry_run:
            typer.echo(f"would delete {_as_text(result)}; nothing was changed")
        else:
            rest = "" if result.is_complete else "; the rest is left to the next purge"
            typer.echo(f"deleted {_as_text(result)} in {seconds:.1f} s{rest}")
        if not result.is_complete:
            raise typer.Abort


def _purge(purger: Purger, closed_before: float, **options: Any) -> PurgeResult:
    """Purge, and show the progress: by date, because the conversations are not counted."""
    from rich.progress import Progress, TextColumn

    totals: list[PurgeResult] = []  # of all batches so far; empty before the first

    def on_batch(total: PurgeResult) -> None:
        totals[:] = [total]
        if total.oldest and total.newest:
            period, completed = total.closed_before - total.oldest, total.newest - total.oldest
            bar.update(task, total=period.total_seconds(), completed=completed.total_seconds())
        bar.update(task, deleted=total.conversations)

    *columns, remaining_time = Progress.get_default_columns()
    with progress_bar(*columns, TextColumn("{task.fields[deleted]:,} deleted"), remaining_time) as bar:
        task = bar.add_task("purge", total=None, deleted=0)
        try:
            return purger.purge(closed_before, on_batch=on_batch, **options)
        except DatabaseError as error:
            if not totals:
                raise
            raise type(error)(f"{error}; before that it deleted {_as_text(totals[0])}") from error


def _as_text(result: PurgeResult) -> str:
    counts = f"{counted(result.conversations, 'conversation')} and {counted(result.events, 'event')}"
    if result.oldest is None or result.newest is None:
        return counts
    return f"{counts} (ended from {iso(result.oldest)} to {iso(result.newest)})"

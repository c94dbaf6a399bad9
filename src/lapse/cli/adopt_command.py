"""`lapse adopt` and `lapse unadopt`."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lapse.addresses import shown
from lapse.cli.databases import open_database
from lapse.cli.options import DatabaseUrl, option
from lapse.cli.output import progress_bar
from lapse.cli.step_progress import StepProgress
from lapse.cli.streams import tell
from lapse.errors import InvalidInputError
from lapse.shutdown import Interrupted, StopEvent, stop_on_signals

if TYPE_CHECKING:
    from lapse.adoption.adopt import Adoption
    from lapse.adoption.duplicates import Duplicate
    from lapse.adoption.plan import Step
    from lapse.store.connection import Connection


def adopt(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan as SQL; change nothing.")] = False,
    keep: Annotated[
        str | None, option("WHICH", "Which open conversation of a pair is kept: newest or oldest.", default="newest")
    ] = None,
    report: Annotated[
        Path | None, option("FILE", "Write the duplicates that end, or would end, to a new CSV file.")
    ] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Adopt an application's own table `conversations`, while the application continues to use it.

    Prints its plan as SQL first. Can be interrupted at any time and run again to resume. `lapse unadopt` reverts it.
    Conversations that the application opens get the idle timeout of CONVERSATION_IDLE_TIMEOUT_MINUTES (30).
    """
    from lapse.adoption.adoption_record import KEEP_CHOICES
    from lapse.adoption.export import check_new

    if keep is not None and keep not in KEEP_CHOICES:
        raise InvalidInputError(f"--keep {shown(keep)}: use {' or '.join(KEEP_CHOICES)}")
    report = check_new(report) if report else None
    _with_adoption(database_url, keep, partial(_dry_run if dry_run else _adopt, report=report))


def unadopt(
    export: Annotated[
        Path | None,
        option("FILE", "The CSV file for the history.", default="conversation_events-TIME.csv in this directory"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Revert even while lapse is connected, or where the history is missing.")
    ] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Revert `lapse adopt`: export the history to a file, then restore the table's original definition."""
    from lapse.adoption.export import default_file

    file = export or default_file()

    def work(adoption: Adoption) -> None:
        from lapse.adoption.revert import Revert

        with progress_bar() as bar:
            exported = Revert(adoption=adoption, file=file, force=force).run(StepProgress(bar))
        history = f"{exported:,} events are in {file}" if file.exists() else "there was no history"
        typer.echo(f"reverted: the table has its original definition; {history}")

    _with_adoption(database_url, None, work)


def _with_adoption(database_url: str | None, keep: str | None, work: Callable[[Adoption], None]) -> None:
    from lapse.adoption import require_postgresql
    from lapse.adoption.adopt import Adoption
    from lapse.settings import idle_timeout_seconds

    stop_event = StopEvent()
    with stop_on_signals(stop_event), open_database(database_url) as (database, settings):
        seconds = idle_timeout_seconds(settings.idle_timeout_minutes)
        require_postgresql(database)

        def work_on(connection: Connection) -> None:
            work(Adoption(store=connection, keep=keep, idle_timeout_seconds=seconds, stop_event=stop_event))

        try:
            database.autocommit(work_on, retry=False)
        except Interrupted:
            tell("interrupted; the completed steps are kept, and the next run resumes from there")
            raise typer.Abort from None


def _dry_run(adoption: Adoption, report: Path | None) -> None:
    steps, duplicates = adoption.dry_run()
    typer.echo(_plan(steps, duplicates) if steps else "-- nothing to do: the table is adopted")
    if report is not None:
        _write_report(report, duplicates)


def _adopt(adoption: Adoption, report: Path | None) -> None:
    begin = time.monotonic()
    steps, duplicates = adoption.dry_run()
    if steps:
        typer.echo(_plan(steps, duplicates))
        with progress_bar() as bar:
            adoption.run(StepProgress(bar))
        done = f"adopted in {time.monotonic() - begin:.1f} s; run `lapse preview` before you start a worker"
    else:
        done = "nothing to do: the table is adopted"
    if report is not None:
        _write_report(report, adoption.ended_duplicates())
    typer.echo(done)


def _plan(steps: Sequence[Step], duplicates: Sequence[Duplicate]) -> str:
    lines = [_as_sql(number, step) for number, step in enumerate(steps, start=1)]
    if duplicates:
        lines.append(f"-- {len(duplicates):,} open conversations end: their pair has another one\n")
    return "\n".join(lines)


def _as_sql(number: int, step: Step) -> str:
    lines = [f"-- {number}. {step.title}", f"--    lock: {step.lock}", f"--    size: {step.size}"]
    statements = [f"{statement};" for statement in step.statements]
    if step.is_transaction:
        statements = ["BEGIN;", *statements, "COMMIT;"]
    return "\n".join([*lines, *statements, ""])


def _write_report(file: Path, duplicates: Sequence[Duplicate]) -> None:
    from lapse.adoption.export import write_whole

    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["owner_id", "kept_conv_id", "conv_id", "status", "started_at", "updated_at"])
    writer.writerows(
        [each.owner_id, each.kept_conv_id, each.conv_id, each.status, each.started_at or "", each.updated_at or ""]
        for each in duplicates
    )
    write_whole(file, text.getvalue().encode())

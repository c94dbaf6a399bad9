"""`lapse migrate` and `lapse status`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lapse.cli.databases import open_database, require_file
from lapse.cli.options import AsJson, DatabaseUrl

if TYPE_CHECKING:
    from lapse.service import ConversationService


def migrate(
    database_url: DatabaseUrl = None,
    distribute: Annotated[
        bool,
        typer.Option("--distribute", help="Citus: then spread the tables over the cluster's nodes, by owner."),
    ] = False,
) -> None:
    """Create or upgrade the schema. Safe to run again, and from several places at once."""
    from lapse.store import migrate as migrate_schema
    from lapse.store import schema_version
    from lapse.store.distribute import check_distributable
    from lapse.store.distribute import distribute as distribute_tables

    database, _ = open_database(database_url)
    try:
        # Who waits at a prompt is told at once that the server is away; only what comes later is tried again.
        if distribute:
            check_distributable(database, retry=False)
        schema_version(database, retry=False)
        result = migrate_schema(database)
        distributed = distribute_tables(database) if distribute else []
    finally:
        database.close()
    if not result.changed:
        done = f"nothing to do: the schema is at version {result.after}"
    elif result.before is None:
        done = f"created the schema, version {result.after}"
    else:
        done = f"upgraded the schema from version {result.before} to {result.after}"
    if distributed:
        done += f"; distributed {' and '.join(distributed)} by owner"
    elif distribute:
        done += "; the tables are distributed already"
    typer.echo(f"{database.safe_url}: {done}")
    if result.shut_out:
        typer.echo(
            f"closed to {', '.join(result.shut_out)}, whom only default privileges let in; a role of yours among them "
            "gets its rights from deploy/postgres/roles.sql"
        )


def status(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show what is open, what is due now and when the next deadline is. Reads only."""
    from lapse.service import ConversationService

    database, settings = open_database(database_url)
    try:
        require_file(database)
        found = _read_status(ConversationService(database, settings=settings))
    finally:
        database.close()
    typer.echo(json.dumps(found) if as_json else _as_text(found))


def _read_status(service: ConversationService) -> dict[str, Any]:
    from lapse.store import check_schema, schema_version
    from lapse.store.statements import BEGINNING_OF_TIME
    from lapse.worker.tasks import build_tasks

    check_schema(service.database, retry=False)
    repository = service.conversation_repo
    idle, expired = repository.count_due(service.idle_timeout())
    deadlines = repository.next_deadlines()
    # By the worker's own rule; what is due since ever, as after a change of the idle timeout, is due now.
    due_at = [moment for task in build_tasks(service).values() if (moment := task.due_at(deadlines))]
    earliest = min(due_at, default=None)
    if earliest == BEGINNING_OF_TIME:
        earliest = deadlines.now
    return {
        "database": service.database.safe_url,
        "schema_version": schema_version(service.database),
        "open": repository.count_open_by_status(),
        "idle_minutes": service.settings.idle_timeout_minutes,  # by this process's settings, which decide what is due
        "due": {"idle_conversations": idle, "expired_conversations": expired},
        "next_deadline": earliest.isoformat().replace("+00:00", "Z") if earliest else None,
    }


def _as_text(found: dict[str, Any]) -> str:
    rows = [
        ("database", f"{found['database']} (schema {found['schema_version']})"),
        *((f"open, {status}", count) for status, count in found["open"].items()),
        ("idle after", f"{found['idle_minutes']:g} minutes"),
        *((f"due now, {task}", count) for task, count in found["due"].items()),
        ("next deadline", found["next_deadline"] or "none"),
    ]
    return "\n".join(f"{name + ':':<35} {value}" for name, value in rows)

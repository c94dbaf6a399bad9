"""`lapse status`."""

from __future__ import annotations

import json
from typing import Any

import typer

from lapse.cli.databases import open_database, require_file
from lapse.cli.options import AsJson, DatabaseUrl
from lapse.cli.output import iso


def status(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show the open conversations, those that are due now, and the next deadline. Reads only."""
    from lapse.service import ConversationService
    from lapse.store import check_schema, schema_version

    with open_database(database_url) as (database, settings):
        require_file(database)
        check_schema(database, retry=False)
        service = ConversationService(database, settings=settings)
        earliest = service.next_deadlines().earliest
        report = {
            "database": database.safe_url,
            "schema_version": schema_version(database),
            "open": service.conversation_repo.count_open_by_status(),
            "idle_minutes": settings.idle_timeout_minutes,  # of this process, which decides what is due
            "due": service.conversation_repo.count_due(service.idle_timeout()),
            "next_deadline": iso(earliest) if earliest else None,
        }
    typer.echo(json.dumps(report) if as_json else _as_text(report))


def _as_text(report: dict[str, Any]) -> str:
    rows = [
        ("database", f"{report['database']} (schema {report['schema_version']})"),
        *((f"open, {status}", count) for status, count in report["open"].items()),
        ("idle after", f"{report['idle_minutes']:g} minutes"),
        *((f"due now, {task}", count) for task, count in report["due"].items()),
        ("next deadline", report["next_deadline"] or "none"),
    ]
    return "\n".join(f"{name + ':':<35} {value}" for name, value in rows)

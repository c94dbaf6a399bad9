"""Check that lapse can use the database at all: what it is, its schema version, and the server."""

from __future__ import annotations

from collections.abc import Iterator

from lapse.adoption.findings import Finding, error, warning
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import quoted
from lapse.adoption.required_columns import obstacles
from lapse.store.operations.schema import head_version

OLDEST_VERSION = 140_000
"""PostgreSQL 14: earlier versions lack TID range scans and CREATE OR REPLACE TRIGGER."""

_NOT_POOLED = ", with the database's own address instead of the pooler's"


def check_kind(inspection: Inspection) -> Iterator[Finding]:
    """Yield what must be done before lapse can use the database."""
    if inspection.kind is Kind.EMPTY:
        yield from _empty(inspection)
    elif inspection.kind is Kind.HIDDEN:
        yield error(
            "missing-privilege",
            f"The table conversations is in schema {', '.join(inspection.hidden_in)}, on which role "
            f"{inspection.server.role} lacks USAGE.",
            f"GRANT USAGE ON SCHEMA {quoted(inspection.hidden_in[0])} TO {quoted(inspection.server.role)};",
        )
    elif inspection.kind is Kind.ADOPTABLE:
        yield error(
            "not-adopted",
            "The table conversations belongs to an application and is not adopted: lapse does not use it.",
            "`lapse adopt --dry-run`, then `lapse adopt`" + (_NOT_POOLED if inspection.server.is_pooled else ""),
        )
    elif inspection.kind is Kind.ADOPTING:
        yield error(
            "adoption-unfinished",
            "An adoption, or its revert, is incomplete. The application works as before, lapse does not use the table.",
            "`lapse adopt` completes the adoption; `lapse unadopt` reverts it.",
        )
    elif inspection.kind is Kind.OTHER and inspection.table:
        yield from obstacles(inspection.table)


def check_version(inspection: Inspection) -> Iterator[Finding]:
    """Yield a schema version other than this lapse requires, and missing tables."""
    if inspection.is_ahead:
        yield error(
            "schema-ahead",
            f"The schema has version {inspection.schema_version}, this lapse requires {head_version()}: it was "
            "created by a newer lapse.",
            "Upgrade lapse on this machine.",
        )
    if inspection.is_behind:
        yield error(
            "schema-behind",
            f"The schema has version {inspection.schema_version}, this lapse requires {head_version()}.",
            "`lapse migrate`",
        )
    if inspection.kind in (Kind.OWN, Kind.ADOPTED):
        tables = {"conversations": inspection.table, "conversation_events": inspection.events}
        if inspection.is_current:
            tables["message_receipts"] = inspection.receipts
        for name in (name for name, table in tables.items() if table is None):
            yield error(
                "missing-table",
                f"The schema version exists, but the table {name} does not.",
                "Restore the table from a backup, or add its schema to the role's search_path.",
            )


def check_server(inspection: Inspection) -> Iterator[Finding]:
    """Yield whether the server is too old, or a standby."""
    server = inspection.server
    if server.version_number < OLDEST_VERSION:
        yield error(
            "old-server",
            f"The server is PostgreSQL {server.version}: lapse requires 14 or later.",
            "Upgrade PostgreSQL.",
        )
    if server.is_standby:
        yield error("read-only", "The server is a standby: it accepts no writes.", "Use the primary server's URL.")


def _empty(inspection: Inspection) -> Iterator[Finding]:
    yield error(
        "empty",
        "The database has no table conversations.",
        "`lapse migrate` creates lapse's own tables; if the table should exist, check DATABASE_URL.",
    )
    if inspection.visible_in:
        yield warning(
            "table-elsewhere",
            f"Schema {', '.join(inspection.visible_in)} has a table conversations, but is not on the role's "
            "search_path.",
            f"ALTER ROLE {quoted(inspection.server.role)} SET search_path = {quoted(inspection.visible_in[0])};",
        )

"""Check that lapse can work with this database at all: what it is, its schema's version, whether it can be written."""

from __future__ import annotations

from collections.abc import Iterator

from lapse.adoption.findings import Finding, note, trouble
from lapse.adoption.names import quoted
from lapse.adoption.required_columns import obstacles
from lapse.adoption.subject import Kind, Subject
from lapse.store.schema_version import head_version

OLDEST_VERSION = 140_000
"""PostgreSQL 14: before it there are no TID range scans and no CREATE OR REPLACE TRIGGER."""

_NOT_POOLED = ", with the database's own address, not the pooler's"


def check_kind(subject: Subject) -> Iterator[Finding]:
    """Yield what has to be done before lapse can work here."""
    if subject.kind is Kind.EMPTY:
        yield from _empty(subject)
    elif subject.kind is Kind.HIDDEN:
        yield trouble(
            "missing-right",
            f"The table conversations is in schema {', '.join(subject.hidden_in)}, into which role "
            f"{subject.server.role} may not look.",
            f"GRANT USAGE ON SCHEMA {quoted(subject.hidden_in[0])} TO {quoted(subject.server.role)};",
        )
    elif subject.kind is Kind.ADOPTABLE:
        yield trouble(
            "not-adopted",
            "The table conversations is an application's own, and not adopted yet: lapse leaves it alone.",
            "`lapse adopt --dry-run`, then `lapse adopt`" + (_NOT_POOLED if subject.server.is_pooled else ""),
        )
    elif subject.kind is Kind.ADOPTING:
        yield trouble(
            "adoption-unfinished",
            "An adoption has begun and is not finished. The application works as before, lapse does not yet.",
            "`lapse adopt` goes on where it stopped; `lapse unadopt` takes off what is there.",
        )
    elif subject.kind is Kind.OTHER and subject.table:
        yield from obstacles(subject.table)


def check_version(subject: Subject) -> Iterator[Finding]:
    """Yield whether the schema's version is another one than this lapse needs, or one of its tables is gone."""
    if subject.is_ahead:
        yield trouble(
            "schema-ahead",
            f"The schema has version {subject.schema_version}, this lapse needs {head_version()}: a newer lapse made "
            "it.",
            "Upgrade lapse here.",
        )
    if subject.is_behind:
        yield trouble(
            "schema-behind",
            f"The schema has version {subject.schema_version}, this lapse needs {head_version()}.",
            "`lapse migrate`",
        )
    if subject.kind in (Kind.OWN, Kind.ADOPTED):
        tables = {"conversations": subject.table, "conversation_events": subject.events}
        for name in (name for name, table in tables.items() if table is None):
            yield trouble(
                "missing-table",
                f"The schema's version is there, but the table {name} is not.",
                "Restore the table from a backup, or put its schema on the role's search_path.",
            )


def check_server(subject: Subject) -> Iterator[Finding]:
    """Yield what the server, or this session with it, does not allow."""
    server = subject.server
    if server.version_number < OLDEST_VERSION:
        yield trouble(
            "old-server",
            f"This is PostgreSQL {server.version}: lapse is made for 14 and later.",
            "Upgrade PostgreSQL.",
        )
    if server.is_standby:
        yield trouble("read-only", "This server is a standby: it only reads.", "Use the primary server's URL.")


def _empty(subject: Subject) -> Iterator[Finding]:
    yield trouble(
        "empty",
        "There is no table conversations here.",
        "`lapse migrate` makes lapse's own tables; if the table should be here, look at DATABASE_URL.",
    )
    if subject.visible_in:
        yield note(
            "table-elsewhere",
            f"Schema {', '.join(subject.visible_in)} has a table conversations, but is not on the role's search_path.",
            f"ALTER ROLE {quoted(subject.server.role)} SET search_path = {quoted(subject.visible_in[0])};",
        )

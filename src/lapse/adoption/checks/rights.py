"""Check the rights of the current role: what a worker and an application need, and what adopting needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg import Connection

from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, name_of, note, trouble
from lapse.adoption.looks import rows
from lapse.adoption.names import quoted
from lapse.adoption.rights import columns_without
from lapse.adoption.subject import Kind, Subject
from lapse.store.schema import conversation_events, conversations

_UPDATED = ("status", "updated_at", "ended_at", "expires_at")
"""With what lapse adds but its key: what is written when a conversation goes on or ends."""

_MAY_ADOPT = """
    SELECT pg_has_role(c.relowner, 'USAGE') AS owns_table, has_schema_privilege(c.relnamespace, 'CREATE') AS may_create
    FROM pg_class c WHERE c.oid = to_regclass(%(table)s)"""
# By its default, or as its identity. CASE, since PostgreSQL would ask for the right to what is no sequence, too.
_SEQUENCES = """
    SELECT DISTINCT s.oid::regclass::text AS name FROM pg_attribute a
    LEFT JOIN pg_attrdef f ON (f.adrelid, f.adnum) = (a.attrelid, a.attnum)
    JOIN pg_depend d ON (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass)
        OR (d.classid = 'pg_class'::regclass AND d.deptype = 'i'
            AND (d.refobjid, d.refobjsubid) = (a.attrelid, a.attnum))
    JOIN pg_class s ON s.oid = CASE WHEN d.classid = 'pg_attrdef'::regclass THEN d.refobjid ELSE d.objid END
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attname = 'conv_id'
        AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') ELSE false END"""


def check_rights(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield rights that this role lacks for the tables that are there."""
    if subject.kind not in (Kind.OWN, Kind.ADOPTED, Kind.ADOPTING, Kind.ADOPTABLE):
        return
    of_lapse = [*subject.physical.values()]
    if subject.table:
        known = [*conversations.columns.keys(), *of_lapse]
        written = [*_UPDATED, *(name for name in of_lapse if name != subject.physical["session_key"])]
        for right, columns in (("SELECT", known), ("INSERT", known), ("UPDATE", written)):
            yield from _missing(connection, subject, subject.table, right, columns)
    if subject.events:
        known = [*conversation_events.columns.keys(), *of_lapse]
        for right in ("SELECT", "INSERT"):
            yield from _missing(connection, subject, subject.events, right, known)
    if subject.version_table:
        yield from _missing(connection, subject, subject.version_table, "SELECT", ["version_num"])


def check_sequence(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield whether this role may not draw the next `conv_id`."""
    if subject.table is None or subject.kind in (Kind.OTHER, Kind.HIDDEN):
        return
    for sequence in rows(connection, _SEQUENCES, {"table": name_of(subject.table)}):
        yield note(
            "sequence-right",
            f"Role {subject.server.role} may not use the sequence {sequence['name']} of conv_id: it cannot open "
            "conversations. A worker does not need to.",
            f"GRANT USAGE ON SEQUENCE {sequence['name']} TO {quoted(subject.server.role)};",
        )


def check_rights_to_adopt(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield whether this role cannot adopt the table."""
    if subject.kind not in (Kind.ADOPTABLE, Kind.ADOPTING) or subject.table is None:
        return
    (may,) = rows(connection, _MAY_ADOPT, {"table": name_of(subject.table)})
    role, table = subject.server.role, subject.table
    if not may["owns_table"]:
        yield trouble(
            "not-owner",
            f"Role {role} does not own the table conversations, which adopting it needs.",
            f"Adopt as the owner, {table.owner}; or GRANT {quoted(table.owner)} TO {quoted(role)};",
        )
    if not may["may_create"]:
        yield trouble(
            "missing-right",
            f"Role {role} may not create anything in schema {table.schema}, which adopting needs.",
            f"GRANT CREATE ON SCHEMA {quoted(table.schema)} TO {quoted(role)};",
        )


def _missing(
    connection: Connection[Any], subject: Subject, table: Table, right: str, columns: Sequence[str]
) -> Iterator[Finding]:
    wanted = [name for name in columns if name in table.columns]
    without = columns_without(connection, table, right, wanted)
    if not without:
        return
    of_columns = "" if len(without) == len(set(wanted)) else f" the columns {', '.join(without)} of"
    yield trouble(
        "missing-right",
        f"Role {subject.server.role} may not {right}{of_columns} {table.name}.",
        f"GRANT {right} ON {name_of(table)} TO {quoted(subject.server.role)};",
    )

"""Check the privileges of the current role: those that a worker and an application need, and those to adopt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg import Connection

from lapse.adoption.bounded_queries import fetch_rows
from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, error, name_of, warning
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import quoted
from lapse.adoption.privileges import columns_without_privilege
from lapse.store.tables import OWN_TABLES

_UPDATED = ("status", "updated_at", "ended_at", "expires_at")
"""Together with lapse's columns except the key: the columns that are updated when a conversation continues or ends."""

_CAN_ADOPT = """
    SELECT pg_has_role(c.relowner, 'USAGE') AS owns_table, has_schema_privilege(c.relnamespace, 'CREATE') AS can_create
    FROM pg_class c WHERE c.oid = to_regclass(%(table)s)"""
# By its default, or as its identity. CASE, since PostgreSQL would evaluate has_sequence_privilege for tables, too.
_SEQUENCES = """
    SELECT DISTINCT s.oid::regclass::text AS name FROM pg_attribute a
    LEFT JOIN pg_attrdef f ON (f.adrelid, f.adnum) = (a.attrelid, a.attnum)
    JOIN pg_depend d ON (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass)
        OR (d.classid = 'pg_class'::regclass AND d.deptype = 'i'
            AND (d.refobjid, d.refobjsubid) = (a.attrelid, a.attnum))
    JOIN pg_class s ON s.oid = CASE WHEN d.classid = 'pg_attrdef'::regclass THEN d.refobjid ELSE d.objid END
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attname = 'conv_id'
        AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') ELSE false END"""


def check_privileges(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield privileges that this role lacks on the existing tables."""
    if inspection.kind not in (Kind.OWN, Kind.ADOPTED, Kind.ADOPTING, Kind.ADOPTABLE):
        return
    of_lapse = [*inspection.column_names.values()]
    if inspection.table:
        known = [*OWN_TABLES.conversations.columns.keys(), *of_lapse]
        written = [*_UPDATED, *(name for name in of_lapse if name != inspection.column_names["session_key"])]
        for privilege, columns in (("SELECT", known), ("INSERT", known), ("UPDATE", written)):
            yield from _missing(connection, inspection, inspection.table, privilege, columns)
    if inspection.events:
        known = [*OWN_TABLES.events.columns.keys(), *of_lapse]
        for privilege in ("SELECT", "INSERT"):
            yield from _missing(connection, inspection, inspection.events, privilege, known)
    if inspection.receipts and inspection.is_current:
        yield from _missing_on_receipts(connection, inspection, inspection.receipts)
    if inspection.version_table:
        yield from _missing(connection, inspection, inspection.version_table, "SELECT", ["version_num"])


def _missing_on_receipts(connection: Connection[Any], inspection: Inspection, table: Table) -> Iterator[Finding]:
    """An application inserts them and a worker deletes them: a role that can do neither is none of both."""
    yield from _missing(connection, inspection, table, "SELECT", list(table.columns))
    without = [name for name in ("INSERT", "DELETE") if columns_without_privilege(connection, table, name)]
    if len(without) == 2:
        yield error(
            "missing-privilege",
            f"Role {inspection.server.role} lacks INSERT and DELETE on {table.name}: an application needs the first, "
            "a worker the second.",
            f"GRANT INSERT, DELETE ON {name_of(table)} TO {quoted(inspection.server.role)};",
        )


def check_sequence_privilege(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield whether this role lacks USAGE on the sequence of `conv_id`."""
    if inspection.table is None or inspection.kind in (Kind.OTHER, Kind.HIDDEN):
        return
    for sequence in fetch_rows(connection, _SEQUENCES, {"table": name_of(inspection.table)}):
        yield warning(
            "sequence-privilege",
            f"Role {inspection.server.role} lacks USAGE on the sequence {sequence['name']} of conv_id: it cannot open "
            "conversations. A worker does not need it.",
            f"GRANT USAGE ON SEQUENCE {sequence['name']} TO {quoted(inspection.server.role)};",
        )


def check_adoption_privileges(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield the privileges to adopt the table that this role lacks."""
    if inspection.kind not in (Kind.ADOPTABLE, Kind.ADOPTING) or inspection.table is None:
        return
    (row,) = fetch_rows(connection, _CAN_ADOPT, {"table": name_of(inspection.table)})
    role, table = inspection.server.role, inspection.table
    if not row["owns_table"]:
        yield error(
            "not-owner",
            f"Role {role} does not own the table conversations, which adoption requires.",
            f"Adopt as the owner, {table.owner}; or GRANT {quoted(table.owner)} TO {quoted(role)};",
        )
    if not row["can_create"]:
        yield error(
            "missing-privilege",
            f"Role {role} lacks CREATE on schema {table.schema}, which adoption requires.",
            f"GRANT CREATE ON SCHEMA {quoted(table.schema)} TO {quoted(role)};",
        )


def _missing(
    connection: Connection[Any], inspection: Inspection, table: Table, privilege: str, columns: Sequence[str]
) -> Iterator[Finding]:
    wanted = [name for name in columns if name in table.columns]
    without = columns_without_privilege(connection, table, privilege, wanted)
    if not without:
        return
    of_columns = "" if len(without) == len(set(wanted)) else f" the columns {', '.join(without)} of"
    yield error(
        "missing-privilege",
        f"Role {inspection.server.role} lacks {privilege} on{of_columns} {table.name}.",
        f"GRANT {privilege} ON {name_of(table)} TO {quoted(inspection.server.role)};",
    )

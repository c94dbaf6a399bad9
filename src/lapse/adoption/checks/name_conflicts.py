"""Check that adoption can create lapse's objects: their names are free, and the table is a stand-alone one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from lapse.adoption.bounded_queries import fetch_rows
from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, error, name_of
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import (
    EVENTS,
    HELPER_INDEX,
    KEY_CONSTRAINT,
    KEY_FUNCTION,
    LAPSE_TRIGGERS,
    RECEIPTS,
    TRIGGER_FUNCTIONS,
    quoted,
)
from lapse.store.table_mapping import ADOPTION_TABLE, PREFIX, VERSION_TABLE
from lapse.store.tables import OWN_TABLES


def check_name_conflicts(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield objects with the names of lapse's, and whether the table is distributed, or part of an inheritance tree."""
    if inspection.kind is not Kind.ADOPTABLE or inspection.table is None:
        return
    if inspection.is_distributed:
        yield error(
            "distributed",
            "The table conversations is distributed by Citus: lapse can adopt only a local table.",
            "SELECT undistribute_table('conversations');",
        )
    if fetch_rows(connection, _RELATIVES, {"table": name_of(inspection.table)}):
        yield error(
            "inheritance",
            "The table conversations is a partition, or part of an inheritance tree: lapse can adopt only a "
            "stand-alone table.",
            "ALTER TABLE … DETACH PARTITION, or NO INHERIT.",
        )
    yield from _conflicts(inspection.table, connection)


_RELATIVES = """
    SELECT inhrelid FROM pg_inherits WHERE inhrelid = to_regclass(%(table)s) OR inhparent = to_regclass(%(table)s)"""
_SAME_NAME = """
    SELECT CASE WHEN c.relkind IN ('i', 'I') THEN 'INDEX' WHEN c.relkind = 'v' THEN 'VIEW' WHEN c.relkind = 'S'
        THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.relname::text AS name
    FROM pg_class c WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = ANY (%(relations)s::text[])
    UNION ALL SELECT 'FUNCTION', p.proname::text FROM pg_proc p
    WHERE p.pronamespace = %(schema)s::regnamespace AND p.proname = ANY (%(functions)s::text[])"""


def _conflicts(table: Table, connection: Connection[Any]) -> Iterator[Finding]:
    indexes = [str(index.name) for index in OWN_TABLES.conversations.indexes]
    parameters = {
        "schema": quoted(table.schema),
        "relations": [EVENTS, RECEIPTS, ADOPTION_TABLE, VERSION_TABLE, HELPER_INDEX, *indexes],
        "functions": [KEY_FUNCTION, *TRIGGER_FUNCTIONS],
    }
    for row in fetch_rows(connection, _SAME_NAME, parameters):
        thing, name = f"{quoted(table.schema)}.{quoted(row['name'])}", quoted(f"old_{row['name']}")
        yield _conflict(
            f"The schema already has a {row['kind'].lower()} {row['name']}, a name that lapse needs",
            f"ALTER {row['kind']} {thing} RENAME TO {name};",
        )
    where = name_of(table)
    of_table = [
        *(("trigger", name) for name in LAPSE_TRIGGERS if name in table.triggers),
        *(("constraint", name) for name in (KEY_CONSTRAINT,) if name in table.constraints),
        *(("column", name) for name in table.columns if name.startswith(PREFIX)),
    ]
    for kind, name in of_table:
        new = f"{quoted(name)} TO {quoted(f'old_{name}')};"
        yield _conflict(
            f"conversations already has a {kind} {name}, a name that lapse reserves",
            f"ALTER TRIGGER {quoted(name)} ON {where} RENAME TO {quoted(f'old_{name}')};"
            if kind == "trigger"
            else f"ALTER TABLE {where} RENAME {kind.upper()} {new}",
        )


def _conflict(message: str, hint: str) -> Finding:
    return error("name-conflict", f"{message}.", hint)

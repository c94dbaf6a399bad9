"""Check that nothing stands where adoption would put something of lapse's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, name_of, trouble
from lapse.adoption.looks import rows
from lapse.adoption.names import (
    EVENTS,
    HELPER_INDEX,
    KEY_CONSTRAINT,
    KEY_FUNCTION,
    LAPSE_TRIGGERS,
    TRIGGER_FUNCTIONS,
    quoted,
)
from lapse.adoption.subject import Kind, Subject
from lapse.store.layout import ADOPTION_TABLE, PREFIX, VERSION_TABLE
from lapse.store.schema import conversations


def check_way(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield what has the names of lapse's own, and that the table is on a cluster or has relatives."""
    if subject.kind is not Kind.ADOPTABLE or subject.table is None:
        return
    if subject.is_distributed:
        yield trouble(
            "distributed",
            "The table conversations is distributed by Citus: lapse adopts tables of a single server.",
            "SELECT undistribute_table('conversations');",
        )
    if rows(connection, _RELATIVES, {"table": name_of(subject.table)}):
        yield trouble(
            "inheritance",
            "The table conversations is a partition, or inherits or is inherited from: lapse adopts a table that "
            "stands alone.",
            "Make it one: ALTER TABLE … DETACH PARTITION, or NO INHERIT.",
        )
    yield from _names(subject.table, connection)


_RELATIVES = """
    SELECT inhrelid FROM pg_inherits WHERE inhrelid = to_regclass(%(table)s) OR inhparent = to_regclass(%(table)s)"""
_OF_THAT_NAME = """
    SELECT CASE WHEN c.relkind IN ('i', 'I') THEN 'INDEX' WHEN c.relkind = 'v' THEN 'VIEW' WHEN c.relkind = 'S'
        THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.relname::text AS name
    FROM pg_class c WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = ANY (%(relations)s::text[])
    UNION ALL SELECT 'FUNCTION', p.proname::text FROM pg_proc p
    WHERE p.pronamespace = %(schema)s::regnamespace AND p.proname = ANY (%(functions)s::text[])"""


def _names(table: Table, connection: Connection[Any]) -> Iterator[Finding]:
    indexes = [str(index.name) for index in conversations.indexes]
    parameters = {
        "schema": quoted(table.schema),
        "relations": [EVENTS, ADOPTION_TABLE, VERSION_TABLE, HELPER_INDEX, *indexes],
        "functions": [KEY_FUNCTION, *TRIGGER_FUNCTIONS],
    }
    for row in rows(connection, _OF_THAT_NAME, parameters):
        thing, name = f"{quoted(table.schema)}.{quoted(row['name'])}", quoted(f"old_{row['name']}")
        yield _in_the_way(
            f"There is another {row['kind'].lower()} {row['name']} already",
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
        yield _in_the_way(
            f"conversations has a {kind} {name} already, a name that lapse keeps for its own",
            f"ALTER TRIGGER {quoted(name)} ON {where} RENAME TO {quoted(f'old_{name}')};"
            if kind == "trigger"
            else f"ALTER TABLE {where} RENAME {kind.upper()} {new}",
        )


def _in_the_way(what: str, do: str) -> Finding:
    return trouble("in-the-way", f"{what}.", do)

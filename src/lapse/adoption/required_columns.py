"""The columns that lapse needs of a table, with the types that it can work with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, name_of, trouble

_IDS = ("bigint", "integer", "uuid", "text", "character varying")
_TEXTS = ("text", "character varying")
_TIMES = ("timestamp with time zone",)
_OBJECTS = ("jsonb",)

OF_THE_APPLICATION: Mapping[str, Sequence[str]] = {
    "conv_id": _IDS,
    "owner_id": _IDS,
    "from_number": _TEXTS,
    "to_number": _TEXTS,
    "status": _TEXTS,
    "started_at": _TIMES,
    "updated_at": _TIMES,
}
"""What a table of conversations has before it can be adopted."""
OPTIONAL: Mapping[str, Sequence[str]] = {
    "ended_at": _TIMES,
    "expires_at": _TIMES,
    "channel": _TEXTS,
    "context": _OBJECTS,
    "metadata": _OBJECTS,
    "user_id": _IDS,
}
"""What adoption adds where it is missing, and takes as it is where it is there."""
_NEVER_NULL = ("owner_id", "from_number", "to_number")
_TABLE_KINDS = {"p": "partitioned", "v": "a view", "m": "a materialised view", "f": "a foreign table"}

Types = Mapping[str, Sequence[str]]


def declared_types(table: sa.Table) -> dict[str, tuple[str]]:
    """Return the columns of one of lapse's own tables with their types, as PostgreSQL's catalog spells them."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return {column.name: (column.type.compile(dialect=dialect).lower(),) for column in table.columns}


def bare_type(name: str) -> str:
    """Return a type without its length or precision."""
    return re.sub(r"\(\d+(,\d+)?\)", "", name)


def wrong_columns(table: Table, wanted: Types, *, may_miss: bool = False) -> Iterator[Finding]:
    """Yield what keeps lapse from using these columns.

    Args:
        table: to look at.
        wanted: columns with the types that will do, the best one first.
        may_miss: a column that is not there is no fault.
    """
    where = name_of(table)
    for name, types in wanted.items():
        column = table.columns.get(name)
        if column is None:
            if not may_miss:
                add = f"ALTER TABLE {where} ADD COLUMN {name} {types[0]};"
                yield trouble("missing-column", f"{table.name} has no column {name}.", add)
        elif bare_type(column.type) not in types:
            yield trouble(
                "wrong-type",
                f"{table.name}.{name} is {column.type}; lapse needs {' or '.join(types)}.",
                f"ALTER TABLE {where} ALTER COLUMN {name} TYPE {types[0]}{_using(name, column.type, types[0])}; "
                f"(it rewrites the table and locks it meanwhile{_zone(column.type, types[0])})",
            )


def obstacles(table: Table) -> list[Finding]:
    """Return what keeps a table from being adopted: what it lacks of a table of conversations."""
    if table.kind != "r":
        return [
            trouble(
                "not-a-table",
                f"{table.name} is {_TABLE_KINDS.get(table.kind, 'no table')}: lapse adopts an ordinary table.",
                "Point DATABASE_URL at the database, and the role's search_path at the schema, that has the table.",
            )
        ]
    found = [*wrong_columns(table, OF_THE_APPLICATION), *wrong_columns(table, OPTIONAL, may_miss=True)]
    where = name_of(table)
    if "conv_id" in table.columns and _primary_key(table) != ["conv_id"]:
        found.append(
            trouble(
                "primary-key",
                f"conv_id alone is not the primary key of {table.name}: lapse finds a conversation by it.",
                f"ALTER TABLE {where} ADD PRIMARY KEY (conv_id); (after dropping another primary key)",
            )
        )
    found += [
        trouble(
            "nullable-column",
            f"{table.name}.{name} may be NULL: such a conversation belongs to nobody.",
            f"ALTER TABLE {where} ALTER COLUMN {name} SET NOT NULL;",
        )
        for name in _NEVER_NULL
        if name in table.columns and table.columns[name].is_nullable
    ]
    return found


def primary_key_is(table: Table, columns: Sequence[str]) -> bool:
    """Tell whether these are the columns of the table's primary key, in whatever order."""
    return sorted(_primary_key(table)) == sorted(columns)


def _primary_key(table: Table) -> list[str]:
    return [name for key in table.constraints.values() if key.kind == "p" for name in key.columns]


def _zone(found: str, wanted: str) -> str:
    if bare_type(found) != "timestamp without time zone" or wanted not in _TIMES:
        return ""
    return ", and in place of UTC write the application's own zone: a wrong one moves every deadline by hours"


def _using(name: str, found: str, wanted: str) -> str:
    """Return how a value becomes one of the other type, where PostgreSQL would guess or refuse."""
    if bare_type(found) == "timestamp without time zone" and wanted in _TIMES:
        return f" USING {name} AT TIME ZONE 'UTC'"
    return f" USING {name}::{wanted}"

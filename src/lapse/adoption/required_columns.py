"""The columns that lapse requires of a table, with their supported types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, error, name_of

_IDS = ("bigint", "integer", "uuid", "text", "character varying")
_TEXTS = ("text", "character varying")
_TIMES = ("timestamp with time zone",)
_OBJECTS = ("jsonb",)

REQUIRED: Mapping[str, Sequence[str]] = {
    "conv_id": _IDS,
    "owner_id": _IDS,
    "from_number": _TEXTS,
    "to_number": _TEXTS,
    "status": _TEXTS,
    "started_at": _TIMES,
    "updated_at": _TIMES,
}
"""The columns that a table of conversations must have to be adopted."""
OPTIONAL: Mapping[str, Sequence[str]] = {
    "ended_at": _TIMES,
    "expires_at": _TIMES,
    "channel": _TEXTS,
    "context": _OBJECTS,
    "metadata": _OBJECTS,
    "user_id": _IDS,
}
"""The columns that adoption adds where they are missing, and uses where they exist."""
_NEVER_NULL = ("owner_id", "from_number", "to_number")
_TABLE_KINDS = {"p": "partitioned", "v": "a view", "m": "a materialised view", "f": "a foreign table"}

Types = Mapping[str, Sequence[str]]


def declared_types(table: sa.Table) -> dict[str, tuple[str]]:
    """Return the columns of one of lapse's own tables, with their types as PostgreSQL's catalog spells them."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return {column.name: (column.type.compile(dialect=dialect).lower(),) for column in table.columns}


def bare_type(name: str) -> str:
    """Return a type without its length or precision."""
    return re.sub(r"\(\d+(,\d+)?\)", "", name)


def wrong_columns(table: Table, wanted: Types, *, may_miss: bool = False) -> Iterator[Finding]:
    """Yield columns that are missing, or have a type that lapse does not support.

    Args:
        table: to check.
        wanted: columns with their supported types, the preferred one first.
        may_miss: a missing column is no error.
    """
    where = name_of(table)
    for name, types in wanted.items():
        column = table.columns.get(name)
        if column is None:
            if not may_miss:
                add = f"ALTER TABLE {where} ADD COLUMN {name} {types[0]};"
                yield error("missing-column", f"{table.name} has no column {name}.", add)
        elif bare_type(column.type) not in types:
            yield error(
                "wrong-type",
                f"{table.name}.{name} is {column.type}; lapse requires {' or '.join(types)}.",
                f"ALTER TABLE {where} ALTER COLUMN {name} TYPE {types[0]}{_using(name, column.type, types[0])}; "
                f"(this rewrites the table under a lock{_zone(column.type, types[0])})",
            )


def obstacles(table: Table) -> list[Finding]:
    """Return the errors that prevent adoption: kind of table, columns, types, and the primary key."""
    if table.kind != "r":
        return [
            error(
                "not-a-table",
                f"{table.name} is {_TABLE_KINDS.get(table.kind, 'not a table')}: lapse adopts ordinary tables only.",
                "Set DATABASE_URL to the database, and the role's search_path to the schema, of the table.",
            )
        ]
    findings = [*wrong_columns(table, REQUIRED), *wrong_columns(table, OPTIONAL, may_miss=True)]
    where = name_of(table)
    if "conv_id" in table.columns and _primary_key(table) != ["conv_id"]:
        findings.append(
            error(
                "primary-key",
                f"conv_id alone is not the primary key of {table.name}: lapse identifies a conversation by it.",
                f"ALTER TABLE {where} ADD PRIMARY KEY (conv_id); (after dropping any other primary key)",
            )
        )
    findings += [
        error(
            "nullable-column",
            f"{table.name}.{name} is nullable: a conversation without it has no owner or no address.",
            f"ALTER TABLE {where} ALTER COLUMN {name} SET NOT NULL;",
        )
        for name in _NEVER_NULL
        if name in table.columns and table.columns[name].is_nullable
    ]
    return findings


def primary_key_is(table: Table, columns: Sequence[str]) -> bool:
    """Tell whether these are the columns of the table's primary key, in any order."""
    return sorted(_primary_key(table)) == sorted(columns)


def _primary_key(table: Table) -> list[str]:
    return [name for key in table.constraints.values() if key.kind == "p" for name in key.columns]


def _zone(current: str, wanted: str) -> str:
    if bare_type(current) != "timestamp without time zone" or wanted not in _TIMES:
        return ""
    return ", and replace UTC by the application's own time zone: a wrong one shifts every deadline by hours"


def _using(name: str, current: str, wanted: str) -> str:
    """Return the USING clause of the conversion, which PostgreSQL would guess or refuse."""
    if bare_type(current) == "timestamp without time zone" and wanted in _TIMES:
        return f" USING {name} AT TIME ZONE 'UTC'"
    return f" USING {name}::{wanted}"

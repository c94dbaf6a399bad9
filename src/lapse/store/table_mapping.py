"""How the tables of one database differ from those that migrations create: an adopted table keeps its own columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LAPSE_COLUMNS = (
    "session_key",
    "version",
    "policy_id",
    "opened_by",
    "last_inbound_at",
    "last_outbound_at",
    "first_answered_at",
    "idle_check_at",
    "idle_timeout_seconds",
    "hold_until",
    "reminders_sent",
    "reminded_at",
)
"""Columns that adoption adds; where the application has a column of that name already, it is called `lapse_…`."""
PREFIX = "lapse_"
ADOPTION_TABLE = "lapse_adoption"
"""Exists from the start of an adoption: its progress, and the original table."""

VERSION_TABLE = "lapse_schema_version"
"""Alembic's table under a name of lapse's own: the application's Alembic may live in the same database."""


class IdKind(StrEnum):
    """The type of a column of ids. In lapse's own tables conversations have UUIDs, owners any of these."""

    BIGINT = "bigint"
    UUID = "uuid"
    TEXT = "text"


_KIND_OF_TYPE = {
    "int2": IdKind.BIGINT,
    "int4": IdKind.BIGINT,
    "int8": IdKind.BIGINT,
    "uuid": IdKind.UUID,
}
"""By PostgreSQL's name of the type; any other type is read and written as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableMapping:
    """The table `conversations` as it is in one database."""

    is_adopted: bool = False
    """Created by the application: columns may be NULL that are NOT NULL in lapse's own table."""
    kinds: Mapping[str, IdKind] = field(
        default_factory=lambda: {"conv_id": IdKind.UUID, "owner_id": IdKind.BIGINT, "user_id": IdKind.BIGINT},
        hash=False,
    )
    renamed: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The database's name of a column, by lapse's name, where the two differ."""
    new_id: str | None = None
    """The SQL expression that generates the id of a new conversation; None: lapse generates it."""


DEFAULT = TableMapping()
"""Lapse's own tables, on either database, where owners are whole numbers."""
FILE_QUERY = "SELECT name, type FROM pragma_table_info('conversations')"
"""SQLite: no row where there is no such table."""
_OWNER_KIND_IN_FILE = {"CHAR(36)": IdKind.UUID, "TEXT": IdKind.TEXT}

MAPPING_QUERY = f"""
    SELECT a.attname, t.typname, a.attnotnull, to_regclass('{ADOPTION_TABLE}') IS NOT NULL AS is_adopted,
        CASE WHEN a.attname = 'conv_id' THEN
            CASE WHEN a.attidentity <> '' THEN
                'nextval(' || quote_literal(pg_get_serial_sequence(a.attrelid::regclass::text, a.attname)) || ')'
            ELSE pg_get_expr(d.adbin, d.adrelid) END
        END AS new_id,
        to_regclass('pg_dist_partition') IS NOT NULL AS has_citus
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = to_regclass('conversations') AND a.attnum > 0 AND NOT a.attisdropped"""  # noqa: S608 - of constants
"""PostgreSQL: reads the catalog, which every role may do; no row where there is no such table."""


def mapping_of(rows: Iterable[Any]) -> TableMapping | None:
    """Return the mapping that the rows of `MAPPING_QUERY` describe, or None where there is no table yet."""
    columns = {row[0]: row for row in rows}
    if not columns:
        return None
    kinds = {
        name: _KIND_OF_TYPE.get(columns[name][1], IdKind.TEXT) if name in columns else kind
        for name, kind in DEFAULT.kinds.items()
    }
    # The columns whose NULLs an application may leave; lapse's own table has none.
    may_be_null = any(name in columns and not columns[name][2] for name in ("status", "updated_at", "expires_at"))
    mapping = TableMapping(
        is_adopted=bool(next(iter(columns.values()))[3]) or may_be_null,
        kinds=kinds,
        renamed={name: PREFIX + name for name in LAPSE_COLUMNS if PREFIX + name in columns},
        new_id=columns["conv_id"][4] if "conv_id" in columns else None,
    )
    return DEFAULT if mapping == DEFAULT else mapping


def mapping_of_file(rows: Iterable[Any]) -> TableMapping | None:
    """Return the mapping that the rows of `FILE_QUERY` describe, or None where there is no table yet."""
    types = {row[0]: row[1] for row in rows}
    if not types:
        return None
    kind = _OWNER_KIND_IN_FILE.get(types.get("owner_id", ""), IdKind.BIGINT)
    return DEFAULT if kind is IdKind.BIGINT else TableMapping(kinds={**DEFAULT.kinds, "owner_id": kind})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Everything that statements are built for. Databases of one shape run the same statements."""

    dialect: str
    """`postgresql` or `sqlite`."""
    mapping: TableMapping = DEFAULT
    is_distributed: bool = False
    """Whether Citus distributes the conversations over shards."""
    has_server_clock: bool = True
    """Whether `now` is PostgreSQL's function; otherwise the driver binds a value."""

"""Reads PostgreSQL's catalog: a table's columns, indexes, constraints, triggers and row level security."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row, dict_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as it was declared."""

    name: str
    type: str
    """As SQL spells it: `bigint`, `text`, `uuid`, `timestamp with time zone`, …."""
    is_nullable: bool
    default: str | None
    """The expression of its default; None where there is none, and for a generated column."""
    is_generated: bool
    expression: str | None
    """The expression of a generated column, if it uses only built-in objects; otherwise None."""
    identity: str
    """`a` for GENERATED ALWAYS AS IDENTITY, `d` for BY DEFAULT, empty for neither."""

    @property
    def is_required(self) -> bool:
        """Tell whether an INSERT must provide a value."""
        return not (self.is_nullable or self.default or self.is_generated or self.identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index, with the statement that creates it."""

    name: str
    definition: str
    columns: Sequence[str | None]
    """Its key columns in order; None stands for an expression."""
    keys: Sequence[str]
    """The key columns as SQL, expressions included."""
    equals: Sequence[str]
    """The equality operator of each key column, with its schema."""
    uses_only_built_in: bool
    """Its expressions and its predicate use only built-in objects."""
    predicate: str | None
    """None where the index is not partial."""
    is_unique: bool
    is_primary: bool
    is_valid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A constraint, as `pg_get_constraintdef` prints it."""

    name: str
    kind: str
    """`c` for CHECK, `p` for PRIMARY KEY, `u` for UNIQUE, `f` for FOREIGN KEY."""
    definition: str
    columns: Sequence[str]
    is_valid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A user-defined trigger (no internal one of a constraint)."""

    name: str
    definition: str
    """As `pg_get_triggerdef` prints it."""
    function: str
    """With its schema, quoted where necessary."""
    source: str
    """The function's body."""
    is_before: bool
    is_for_each_row: bool
    on_insert: bool
    on_update: bool
    enabled: str
    """`O`: enabled; `A`: always; `R`: in replication only; `D`: disabled."""

    @property
    def fires(self) -> bool:
        """Tell whether it fires in an ordinary session."""
        return self.enabled in ("O", "A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as the catalog describes it."""

    schema: str
    name: str
    owner: str
    kind: str
    """`r` for a table, `p` for a partitioned one, `v` for a view, …."""
    options: Sequence[str]
    """Storage parameters, such as `fillfactor=85`."""
    has_row_security: bool
    forces_row_security: bool
    is_row_security_active: bool
    """Policies apply to this session's role."""
    rows: int
    """The estimate of the last VACUUM or ANALYZE; -1 where there was none."""
    pages: int
    """Of 8 KiB each, at present."""
    bytes: int
    """The size of the table without its indexes, at present."""
    columns: dict[str, Column] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    constraints: dict[str, Constraint] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)


_TABLE = """
    SELECT n.nspname AS schema, c.relname AS name, pg_get_userbyid(c.relowner) AS owner, c.relkind::text AS kind,
        coalesce(c.reloptions, '{}') AS options, c.relrowsecurity AS has_row_security,
        c.relforcerowsecurity AS forces_row_security,
        CASE WHEN c.relkind IN ('r', 'p') THEN row_security_active(c.oid) ELSE false END AS is_row_security_active,
        c.reltuples::bigint AS rows, pg_relation_size(c.oid) / current_setting('block_size')::bigint AS pages,
        pg_table_size(c.oid) AS bytes, c.oid
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)"""
_COLUMNS = """
    SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS is_nullable,
        CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default,
        a.attgenerated <> '' AS is_generated,
        CASE WHEN a.attgenerated <> '' AND NOT EXISTS (SELECT FROM pg_depend
            WHERE classid = 'pg_attrdef'::regclass AND objid = d.oid AND refclassid <> 'pg_class'::regclass)
            THEN pg_get_expr(d.adbin, d.adrelid) END AS expression,
        a.attidentity::text AS identity
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
_INDEXES = """
    SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition,
        (SELECT array_agg(a.attname::text ORDER BY k.place)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
            LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
            WHERE k.place <= i.indnkeyatts) AS columns,
        (SELECT array_agg(pg_get_indexdef(i.indexrelid, place, false) ORDER BY place)
            FROM generate_series(1, i.indnkeyatts) AS k(place)) AS keys,
        (SELECT array_agg(coalesce((SELECT format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)
                FROM pg_opclass oc JOIN pg_amop a ON a.amopfamily = oc.opcfamily AND a.amopstrategy = 3
                    AND (a.amoplefttype, a.amoprighttype) = (oc.opcintype, oc.opcintype)
                JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
                WHERE oc.oid = k.class AND oc.opcmethod = (SELECT oid FROM pg_am WHERE amname = 'btree')),
                'OPERATOR(pg_catalog.=)') ORDER BY k.place)
            FROM unnest(i.indclass::oid[]) WITH ORDINALITY AS k(class, place)) AS equals,
        NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = i.indexrelid
            AND refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass))
            AS uses_only_built_in,
        pg_get_expr(i.indpred, i.indrelid) AS predicate, i.indisunique AS is_unique, i.indisprimary AS is_primary,
        i.indisvalid AS is_valid
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = %s ORDER BY c.relname"""
_CONSTRAINTS = """
    SELECT conname AS name, contype::text AS kind, pg_get_constraintdef(oid) AS definition, convalidated AS is_valid,
        (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_attribute a
            WHERE a.attrelid = conrelid AND a.attnum = ANY (conkey)) AS columns
    FROM pg_constraint WHERE conrelid = %s AND contype IN ('c', 'p', 'u', 'f') ORDER BY conname"""
# The bits of `tgtype` are PostgreSQL's own (pg_trigger.h): row 1, before 2, insert 4, update 16.
_TRIGGERS = """
    SELECT t.tgname AS name, pg_get_triggerdef(t.oid) AS definition,
        format('%%I.%%I', n.nspname, p.proname) AS function,
        p.prosrc AS source, t.tgtype & 2 <> 0 AS is_before, t.tgtype & 1 <> 0 AS is_for_each_row,
        t.tgtype & 4 <> 0 AS on_insert, t.tgtype & 16 <> 0 AS on_update, t.tgenabled::text AS enabled
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE t.tgrelid = %s AND NOT t.tgisinternal
    ORDER BY t.tgname"""


def read_table(connection: Connection[Any], name: str) -> Table | None:
    """Return the table that this name resolves to, or None where there is none.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_TABLE, [name]).fetchone()
    if row is None:
        return None
    oid = row.pop("oid")
    return Table(
        **row,
        columns=_by_name(connection, Column, _COLUMNS, oid),
        indexes=_by_name(connection, Index, _INDEXES, oid),
        constraints=_by_name(connection, Constraint, _CONSTRAINTS, oid),
        triggers=_by_name(connection, Trigger, _TRIGGERS, oid),
    )


def _by_name(connection: Connection[Any], kind: type[Any], query: str, oid: int) -> dict[str, Any]:
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return {each.name: each for each in cursor.execute(query.encode(), [oid])}

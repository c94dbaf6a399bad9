"""Check the schema of a SQLite file: its origin and version, tables, columns, keys, indexes and triggers."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from lapse.adoption.findings import Finding, error, warning
from lapse.adoption.inspection import Kind
from lapse.store.operations.schema import head_version, known_versions
from lapse.store.table_mapping import VERSION_TABLE
from lapse.store.tables import OWN_TABLES

_COLUMNS = 'SELECT name, "notnull", dflt_value, pk FROM pragma_table_info(?)'
_KEYS = """
    SELECT l.name, i.name FROM pragma_index_list(?) AS l, pragma_index_info(l.name) AS i
    WHERE l."unique" AND NOT l.partial"""
_TRIGGER = re.compile(r"\b(?:AFTER|BEFORE)?\s*UPDATE(?:\s+OF\s+(?P<columns>.+?))?\s+ON\b", re.IGNORECASE | re.DOTALL)
_SETS_ACTIVITY = re.compile(r"\bupdate\b.*\bconversations\b.*\bset\b.*\bupdated_at\b\W*=", re.IGNORECASE | re.DOTALL)
_HAS_CONDITION = re.compile(r"\bWHEN\b.*\bBEGIN\b", re.IGNORECASE | re.DOTALL)
_BOOKKEEPING = ("version", "session_key", "idle_check_at", "idle_timeout_seconds", "status")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """The input of every check."""

    driver: sqlite3.Connection
    path: Path
    objects: Mapping[tuple[str, str], tuple[str, str]]
    """By type and name: the table of each object, and the statement that created it."""
    columns: frozenset[str]
    """Of `conversations`; empty where there is no such table."""
    schema_version: str | None
    """None where there is none."""

    @property
    def has_version(self) -> bool:
        """Tell whether the table of the schema version exists."""
        return ("table", VERSION_TABLE) in self.objects

    @property
    def kind(self) -> Kind:
        """Return what the file is to lapse."""
        if self.has_version:
            return Kind.OWN
        return Kind.OTHER if self.foreign_tables else Kind.EMPTY

    @property
    def foreign_tables(self) -> list[str]:
        """Return tables with names of lapse's that lapse did not create."""
        return (
            [] if self.has_version else [name for name in OWN_TABLES.metadata.tables if ("table", name) in self.objects]
        )

    @property
    def is_current(self) -> bool:
        """Tell whether lapse created the tables, with the schema version of this lapse."""
        return self.kind is Kind.OWN and self.schema_version == head_version()

    @property
    def traits(self) -> list[str]:
        """Return the special properties of the file, as `lapse doctor` prints them."""
        is_known = self.schema_version in known_versions()
        if not self.has_version or self.schema_version == head_version():
            return []
        return ["behind" if is_known or self.schema_version is None else "ahead"]

    def has(self, table: str) -> bool:
        """Tell whether a table exists."""
        return ("table", table) in self.objects


def read_file(driver: sqlite3.Connection, path: Path) -> File:
    """Read the schema of the file.

    Raises:
        sqlite3.DatabaseError: the file cannot be read.
    """
    rows = driver.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema").fetchall()
    objects = {(kind, name): (table, sql) for kind, name, table, sql in rows}
    version = None
    if ("table", VERSION_TABLE) in objects:
        row = driver.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - a constant
        version = str(row[0]) if row else None
    columns = frozenset(row[0] for row in driver.execute(_COLUMNS, [OWN_TABLES.conversations.name]))
    return File(driver=driver, path=path, objects=objects, columns=columns, schema_version=version)


def check_schema(file: File) -> Iterator[Finding]:
    """Yield what must be done before lapse can use the file: foreign tables, version, missing tables, columns, keys."""
    if file.kind is Kind.EMPTY:
        yield error(
            "empty",
            "The database has no table conversations.",
            "`lapse migrate` creates lapse's own tables; if the table should exist, check DATABASE_URL.",
        )
    for name in file.foreign_tables:
        yield error(
            "foreign-table",
            f"The file has a table {name} that lapse did not create: lapse does not use it. Adoption requires "
            "PostgreSQL.",
            f"Name another file in DATABASE_URL; or: ALTER TABLE {name} RENAME TO old_{name}; then `lapse migrate`",
        )
    if file.traits == ["ahead"]:
        yield error(
            "schema-ahead",
            f"The schema has version {file.schema_version}, this lapse requires {head_version()}: it was created "
            "by a newer lapse.",
            "Upgrade lapse on this machine.",
        )
    if file.traits == ["behind"]:
        yield error(
            "schema-behind",
            f"The schema has version {file.schema_version}, this lapse requires {head_version()}.",
            "`lapse migrate`",
        )
    if not file.is_current:
        return
    for table in OWN_TABLES.metadata.sorted_tables:
        if file.has(table.name):
            yield from _columns(file, table)
        else:
            yield error(
                "missing-table",
                f"The schema version exists, but the table {table.name} does not.",
                "Restore the table from a backup.",
            )


def check_indexes(file: File) -> Iterator[Finding]:
    """Yield lapse's indexes that are missing, or differ from their definition."""
    if not (file.is_current and file.has(OWN_TABLES.conversations.name)):
        return
    for index in sorted(OWN_TABLES.conversations.indexes, key=lambda index: str(index.name)):
        wanted = str(sa.schema.CreateIndex(index).compile(dialect=sqlite.dialect()))
        consequence = (
            "messages fail, and a pair may have several open conversations"
            if index.unique
            else "queries that need it read the whole table"
        )
        existing = file.objects.get(("index", str(index.name)))
        if existing is None:
            yield error("missing-index", f"The index {index.name} is missing: {consequence}.", f"{wanted};")
        elif _normalized(existing[1]) != _normalized(wanted):
            yield error(
                "differing-index",
                f"The index {index.name} differs from lapse's definition: {consequence}.",
                f"DROP INDEX {index.name}; {wanted};",
            )


def check_triggers(file: File) -> Iterator[Finding]:
    """Yield triggers that set `updated_at` when lapse updates its own columns."""
    for (kind, name), (table, sql) in file.objects.items():
        if kind != "trigger" or table != OWN_TABLES.conversations.name or file.kind is not Kind.OWN:
            continue
        head, _, body = re.sub(r"\s+", " ", sql).partition(" BEGIN ")
        event = _TRIGGER.search(head)
        if event is None or not _SETS_ACTIVITY.search(body):
            continue
        columns = event["columns"]
        if columns and not any(re.search(rf"\b{column}\b", columns, re.IGNORECASE) for column in _BOOKKEEPING):
            continue
        quoted = '"' + name.replace('"', '""') + '"'
        effect = f"The trigger {name} sets updated_at after an update: lapse's own updates count as activity, and "
        hint = f"DROP TRIGGER {quoted}; and create it again for your own columns only: AFTER UPDATE OF context, …"
        if _HAS_CONDITION.search(sql):
            yield warning("activity-trigger-after", f"{effect}such conversations may never become idle.", hint)
        else:
            yield error("activity-trigger", f"{effect}such conversations never become idle.", hint)


def _columns(file: File, table: sa.Table) -> Iterator[Finding]:
    existing = {row[0]: row for row in file.driver.execute(_COLUMNS, [table.name])}
    for column in table.columns:
        if column.name not in existing:
            add = str(sa.schema.CreateColumn(column).compile(dialect=sqlite.dialect()))
            can_add = column.nullable or column.server_default is not None
            yield error(
                "missing-column",
                f"{table.name} has no column {column.name}.",
                f"ALTER TABLE {table.name} ADD COLUMN {add};" if can_add else "Restore the table from a backup.",
            )
    for name, is_required, default, is_key in existing.values():
        if name not in table.columns and is_required and default is None and not is_key:
            finding, effect = (
                (warning, "lapse cannot open conversations")
                if table is OWN_TABLES.conversations
                else (error, "no conversation can end")
            )
            yield finding(
                "required-column",
                f"{table.name}.{name} is NOT NULL without a default and unknown to lapse: {effect}.",
                f'ALTER TABLE {table.name} DROP COLUMN "{name}"; (or give it a default)',
            )
    wanted = {column.name for column in table.primary_key.columns}
    keys: dict[str, set[str]] = {"": {name for name, _, _, is_key in existing.values() if is_key}}
    for index, column in file.driver.execute(_KEYS, [table.name]):
        keys.setdefault(index, set()).add(column)
    if wanted <= existing.keys() and wanted not in keys.values():
        key = ", ".join(column.name for column in table.primary_key.columns)
        yield error(
            "primary-key",
            f"The primary key of {table.name} is not ({key}).",
            f"CREATE UNIQUE INDEX pk_{table.name} ON {table.name} ({key});",
        )


def _normalized(statement: str) -> str:
    """Return the statement of an index without formatting."""
    text = re.sub(r"^create (unique )?index (if not exists )?", r"\1", re.sub(r"\s+", " ", statement).lower())
    return re.sub(r"""[\s()\[\]"`;]+""", "", text)

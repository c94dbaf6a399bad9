"""Check what is in a SQLite file: whose tables these are, the schema's version, columns, keys, indexes and triggers."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from lapse.adoption.findings import Finding, note, trouble
from lapse.adoption.subject import Kind
from lapse.store.layout import VERSION_TABLE
from lapse.store.schema import conversation_events, conversations, metadata
from lapse.store.schema_version import head_version, known_versions

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
    """What every check looks at."""

    driver: sqlite3.Connection
    path: Path
    objects: Mapping[tuple[str, str], tuple[str, str]]
    """By type and name: the table that each is of, and the statement that made it."""
    columns: frozenset[str]
    """Of `conversations`; none where there is no such table."""
    schema_version: str | None

    @property
    def has_version(self) -> bool:
        """Tell whether lapse's own version stands here."""
        return ("table", VERSION_TABLE) in self.objects

    @property
    def kind(self) -> Kind:
        """Return what the file is to lapse."""
        if self.has_version:
            return Kind.OWN
        return Kind.OTHER if self.foreign_tables else Kind.EMPTY

    @property
    def foreign_tables(self) -> list[str]:
        """Return tables of lapse's names that lapse did not make."""
        return [] if self.has_version else [name for name in metadata.tables if ("table", name) in self.objects]

    @property
    def is_current(self) -> bool:
        """Tell whether lapse made the tables, in the version of this lapse."""
        return self.kind is Kind.OWN and self.schema_version == head_version()

    @property
    def traits(self) -> list[str]:
        """Return what else there is to know."""
        is_known = self.schema_version in known_versions()
        if not self.has_version or self.schema_version == head_version():
            return []
        return ["behind" if is_known or self.schema_version is None else "ahead"]

    def has(self, table: str) -> bool:
        """Tell whether a table is there."""
        return ("table", table) in self.objects


def read_file(driver: sqlite3.Connection, path: Path) -> File:
    """Return what is in the file."""
    found = driver.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema").fetchall()
    objects = {(kind, name): (table, sql) for kind, name, table, sql in found}
    version = None
    if ("table", VERSION_TABLE) in objects:
        row = driver.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - a constant
        version = str(row[0]) if row else None
    columns = frozenset(row[0] for row in driver.execute(_COLUMNS, [conversations.name]))
    return File(driver=driver, path=path, objects=objects, columns=columns, schema_version=version)


def check_schema(file: File) -> Iterator[Finding]:
    """Yield what has to be done before lapse can work here: whose tables these are, versions, tables, columns, keys."""
    if file.kind is Kind.EMPTY:
        yield trouble(
            "empty",
            "There is no table conversations here.",
            "`lapse migrate` makes lapse's own tables; if the table should be here, look at DATABASE_URL.",
        )
    for name in file.foreign_tables:
        yield trouble(
            "foreign-table",
            f"The file has a table {name} that lapse did not make: lapse leaves it alone. On SQLite there is no "
            "adopting.",
            f"Name another file in DATABASE_URL; or: ALTER TABLE {name} RENAME TO old_{name}; then `lapse migrate`",
        )
    if file.traits == ["ahead"]:
        yield trouble(
            "schema-ahead",
            f"The schema has version {file.schema_version}, this lapse needs {head_version()}: a newer lapse made it.",
            "Upgrade lapse here.",
        )
    if file.traits == ["behind"]:
        yield trouble(
            "schema-behind",
            f"The schema has version {file.schema_version}, this lapse needs {head_version()}.",
            "`lapse migrate`",
        )
    if not file.is_current:
        return
    for table in (conversations, conversation_events):
        if file.has(table.name):
            yield from _columns(file, table)
        else:
            yield trouble(
                "missing-table",
                f"The schema's version is there, but the table {table.name} is not.",
                "Restore the table from a backup.",
            )


def check_indexes(file: File) -> Iterator[Finding]:
    """Yield indexes of lapse's that are missing, or others under their names."""
    if not (file.is_current and file.has(conversations.name)):
        return
    for index in sorted(conversations.indexes, key=lambda index: str(index.name)):
        wanted = str(sa.schema.CreateIndex(index).compile(dialect=sqlite.dialect()))
        what = (
            "messages fail, and a pair may have several open conversations"
            if index.unique
            else "what looks by it reads the whole table"
        )
        found = file.objects.get(("index", str(index.name)))
        if found is None:
            yield trouble("missing-index", f"The index {index.name} is missing: {what}.", f"{wanted};")
        elif _plain(found[1]) != _plain(wanted):
            yield trouble(
                "differing-index",
                f"The index {index.name} is not the one that lapse makes: {what}.",
                f"DROP INDEX {index.name}; {wanted};",
            )


def check_triggers(file: File) -> Iterator[Finding]:
    """Yield triggers that set `updated_at` when lapse only looks."""
    for (kind, name), (table, sql) in file.objects.items():
        if kind != "trigger" or table != conversations.name or file.kind is not Kind.OWN:
            continue
        head, _, body = re.sub(r"\s+", " ", sql).partition(" BEGIN ")
        event = _TRIGGER.search(head)
        if event is None or not _SETS_ACTIVITY.search(body):
            continue
        columns = event["columns"]
        if columns and not any(re.search(rf"\b{column}\b", columns, re.IGNORECASE) for column in _BOOKKEEPING):
            continue
        quoted = '"' + name.replace('"', '""') + '"'
        what = f"The trigger {name} sets updated_at after an update: lapse's own bookkeeping counts as activity, and "
        make = trouble if not _HAS_CONDITION.search(sql) else note
        yield make(
            "activity-trigger" if make is trouble else "activity-trigger-after",
            f"{what}such conversations {'never' if make is trouble else 'may never'} become idle.",
            f"DROP TRIGGER {quoted}; and make it again for the columns that are yours: AFTER UPDATE OF context, …",
        )


def _columns(file: File, table: sa.Table) -> Iterator[Finding]:
    found = {row[0]: row for row in file.driver.execute(_COLUMNS, [table.name])}
    for column in table.columns:
        if column.name not in found:
            add = str(sa.schema.CreateColumn(column).compile(dialect=sqlite.dialect()))
            may_add = column.nullable or column.server_default is not None
            yield trouble(
                "missing-column",
                f"{table.name} has no column {column.name}.",
                f"ALTER TABLE {table.name} ADD COLUMN {add};" if may_add else "Restore the table from a backup.",
            )
    for name, is_required, default, is_key in found.values():
        if name not in table.columns and is_required and default is None and not is_key:
            level = note if table is conversations else trouble
            yield level(
                "required-column",
                f"{table.name}.{name} must be given and is unknown to lapse: "
                f"{'lapse cannot open conversations' if table is conversations else 'nothing can end'}.",
                f'ALTER TABLE {table.name} DROP COLUMN "{name}"; (or let it have a default)',
            )
    wanted = {column.name for column in table.primary_key.columns}
    keys: dict[str, set[str]] = {"": {name for name, _, _, is_key in found.values() if is_key}}
    for index, column in file.driver.execute(_KEYS, [table.name]):
        keys.setdefault(index, set()).add(column)
    if wanted <= found.keys() and wanted not in keys.values():
        key = ", ".join(column.name for column in table.primary_key.columns)
        yield trouble(
            "primary-key",
            f"The primary key of {table.name} is not ({key}).",
            f"CREATE UNIQUE INDEX pk_{table.name} ON {table.name} ({key});",
        )


def _plain(statement: str) -> str:
    """Return an index's statement without what says nothing."""
    text = re.sub(r"^create (unique )?index (if not exists )?", r"\1", re.sub(r"\s+", " ", statement).lower())
    return re.sub(r"""[\s()\[\]"`;]+""", "", text)

"""What the migrations build is what the metadata says: by Alembic's comparison, and by the databases' catalogs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from lapse import Database
from lapse.store.table_mapping import VERSION_TABLE
from lapse.store.tables import OWN_TABLES
from tests.support.sql import own_tables, run_sql

POSTGRESQL_CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, is_nullable, column_default, character_maximum_length
        FROM information_schema.columns WHERE table_schema = 'public'""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace""",
    "storage": "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
}
SQLITE_CATALOG = {"objects": "SELECT type, name, tbl_name, sql FROM sqlite_master"}


@pytest.fixture
def created(new_database: Callable[..., str], backend: str) -> Iterator[Database]:
    """Return a database whose tables were created from the metadata, without any migration."""
    with closing(Database(new_database(backend, migrated=False))) as database:
        own_tables(database).metadata.create_all(database.engine)
        yield database


def catalog(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    queries = SQLITE_CATALOG if database.dialect == "sqlite" else POSTGRESQL_CATALOG
    return {
        name: sorted(
            tuple(_plain(value) for value in row) for row in run_sql(database, query) if VERSION_TABLE not in str(row)
        )
        for name, query in queries.items()
    }


def _plain(value: Any) -> Any:
    return re.sub(r"[\s\"]+", " ", str(value)).strip()


def test_alembic_finds_no_difference(database: Database) -> None:
    with database.engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True, "include_name": _is_ours}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, own_tables(database).metadata) == []


def _is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    return not (kind == "table" and name == VERSION_TABLE)


def test_the_catalogs_are_equal(database: Database, created: Database) -> None:
    migrated, wanted = catalog(database), catalog(created)
    assert any(wanted.values())
    for part, rows in wanted.items():
        assert migrated[part] == rows


def test_every_unique_key_has_the_owner(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        inspector = sa.inspect(database.engine)
        for table in OWN_TABLES.metadata.tables:
            keys: list[Any] = [inspector.get_pk_constraint(table)["constrained_columns"]]
            keys += [index["column_names"] for index in inspector.get_indexes(table) if index["unique"]]
            keys += [constraint["column_names"] for constraint in inspector.get_unique_constraints(table)]
            assert keys
            assert all("owner_id" in key for key in keys)


def test_no_table_is_without_row_level_security(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        guarded = run_sql(database, "SELECT relname FROM pg_class WHERE relrowsecurity")
    assert {name for (name,) in guarded} == {*OWN_TABLES.metadata.tables, VERSION_TABLE}


def test_a_message_writes_no_indexed_column() -> None:
    tables = OWN_TABLES.metadata.tables.values()
    indexed = {column.name for table in tables for index in table.indexes for column in index.columns}
    assert indexed.isdisjoint(
        {"updated_at", "last_inbound_at", "last_outbound_at", "first_answered_at", "reminders_sent", "reminded_at"}
    )
    assert {"expires_at", "idle_check_at", "session_key"} <= indexed

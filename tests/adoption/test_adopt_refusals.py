"""What cannot be adopted, or reverted, is refused in one clear line, and nothing is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from tests.adoption.adoption_helpers import adopt
from tests.adoption.legacy_table import connect, create_legacy_table
from tests.support.commands import error_line, run_here

# Whatever an adoption could leave behind, in any schema: tables, columns, indexes, functions, triggers, constraints.
CATALOG = """
    SELECT 'relation', oid::text, relname::text, reloptions::text FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT 'column', attrelid::text, attname::text, atttypid::text FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT 'function', oid::text, proname::text, prosrc FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT 'trigger', oid::text, tgname::text, tgqual::text FROM pg_trigger WHERE oid >= 16384
    UNION ALL SELECT 'constraint', oid::text, conname::text, NULL FROM pg_constraint WHERE oid >= 16384
    ORDER BY 1, 2, 3"""


@contextmanager
def untouched(connection: psycopg.Connection[Any]) -> Iterator[None]:
    before = connection.execute(CATALOG).fetchall()
    yield
    assert connection.execute(CATALOG).fetchall() == before


@pytest.fixture
def old(empty_postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        yield connection


@pytest.mark.parametrize("command", ["adopt", "unadopt"])
def test_sqlite_is_refused_and_no_file_is_made(command: str) -> None:
    line = error_line(run_here(command, "--database-url", "sqlite:///old.db"), 2)
    assert "SQLite, where lapse creates its own tables" in line
    assert not Path("old.db").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP TABLE conversations CASCADE", "no table conversations"),
        ("ALTER TABLE conversations DROP COLUMN from_number", "no column from_number"),
        ("ALTER TABLE conversations ALTER COLUMN updated_at TYPE timestamp", "timestamp without time zone"),
        ("ALTER TABLE conversations ALTER COLUMN owner_id DROP NOT NULL", "owner_id is nullable"),
        ("ALTER TABLE conversations DROP CONSTRAINT conversations_pkey CASCADE", "not the primary key"),
        ("ALTER TABLE conversations RENAME TO c; CREATE VIEW conversations AS SELECT * FROM c", "is a view"),
        ("CREATE TABLE conversation_events (id int)", "conversation_events"),
        ("ALTER TABLE conversations ADD COLUMN lapse_version int", "lapse_version"),
        (
            "ALTER TABLE conversations DROP CONSTRAINT conversations_status_check; "
            "ALTER TABLE conversations ADD CHECK (status IN ('pending', 'progress', 'expired'))",
            "refuses",
        ),
    ],
)
def test_a_table_that_is_not_such_a_table_is_left_as_it_is(
    old: psycopg.Connection[Any], empty_postgres_url: str, change: str, said: str
) -> None:
    old.execute(change.encode())
    with untouched(old):
        for options in (["--dry-run"], []):
            line = error_line(run_here("adopt", *options, "--database-url", empty_postgres_url), 1)
            assert said in line
            assert "nothing was changed" in line


def test_who_does_not_own_the_table_is_told_whose_it_is(old: psycopg.Connection[Any], empty_postgres_url: str) -> None:
    role = f"guest_of_{old.info.dbname}"
    old.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'guest'".encode())
    old.execute(f"GRANT SELECT, INSERT, UPDATE ON conversations TO {role}".encode())
    url = make_url(empty_postgres_url).set(username=role, password="guest").render_as_string(hide_password=False)
    try:
        with untouched(old):
            line = error_line(run_here("adopt", "--database-url", url), 1)
            assert f"{role} does not own the table conversations" in line
            assert "Adopt as the owner, postgres" in line
            assert "guest@" not in line.replace(f"{role}", "")
    finally:
        old.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_lapses_own_tables_are_neither_adopted_nor_given_back(postgres_url: str) -> None:
    with connect(postgres_url) as connection, untouched(connection):
        assert "lapse's own" in error_line(run_here("adopt", "--database-url", postgres_url), 1)
        assert "no adoption to revert" in error_line(run_here("unadopt", "--database-url", postgres_url), 1)


def test_a_table_that_was_never_adopted_is_not_given_back(
    old: psycopg.Connection[Any], empty_postgres_url: str
) -> None:
    with untouched(old):
        assert "not adopted" in error_line(run_here("unadopt", "--database-url", empty_postgres_url), 1)
    assert list(Path().glob("*.csv")) == []


def test_a_file_that_is_there_is_not_written_over(old: psycopg.Connection[Any], empty_postgres_url: str) -> None:
    Path("taken.csv").write_text("mine")
    with untouched(old):
        report = run_here("adopt", "--report", "taken.csv", "--database-url", empty_postgres_url)
        assert "taken.csv" in error_line(report, 2)
        assert "no-such-folder" in error_line(
            run_here("adopt", "--report", "no-such-folder/new.csv", "--database-url", empty_postgres_url), 2
        )
        assert "newest or oldest" in error_line(
            run_here("adopt", "--keep", "both", "--database-url", empty_postgres_url), 2
        )
    adopt(empty_postgres_url)
    with untouched(old):
        export = run_here("unadopt", "--export", "taken.csv", "--database-url", empty_postgres_url)
        assert "taken.csv" in error_line(export, 2)
    assert Path("taken.csv").read_text() == "mine"


def test_migrating_points_at_the_way_in(old: psycopg.Connection[Any], empty_postgres_url: str) -> None:
    with untouched(old):
        assert "`lapse adopt`" in error_line(run_here("migrate", "--database-url", empty_postgres_url), 1)
    adopt(empty_postgres_url)
    old.execute("DROP TABLE lapse_schema_version; UPDATE lapse_adoption SET completed_at = NULL")
    with untouched(old):
        line = error_line(run_here("migrate", "--database-url", empty_postgres_url), 1)
        assert "not finished" in line

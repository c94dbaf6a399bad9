"""Migrating: once, whoever and however many try; never over tables that are not lapse's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from lapse import ConversationService, Database, ForeignTableError, SchemaMissingError, SchemaVersionError, migrate
from lapse.store import check_schema, ensure_schema, schema_version
from lapse.store.migrate import alembic_config
from lapse.store.operations.schema import head_version, known_versions
from lapse.store.table_mapping import VERSION_TABLE
from tests.support.sql import run_sql

TABLES = {"conversations", "conversation_events", "message_receipts", VERSION_TABLE}


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    opened = Database(empty_database_url)
    yield opened
    opened.close()


def tables(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names())


def test_a_first_migration_creates_the_schema_and_a_second_does_nothing(empty: Database) -> None:
    assert schema_version(empty) is None
    first = migrate(empty)
    assert (first.before, first.after, first.changed) == (None, head_version(), True)
    assert tables(empty) == TABLES
    service = ConversationService(empty)
    opened = service.record_message(1, "+5511999999999", "+14155238886")
    second = migrate(empty)
    assert (second.before, second.after, second.changed) == (head_version(), head_version(), False)
    assert service.get_conversation_by_id(opened.conv_id) == opened
    check_schema(empty)


def test_the_versions_are_those_of_alembic() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert known_versions() == tuple(reversed([script.revision for script in scripts.walk_revisions()]))
    assert head_version() == scripts.get_current_head()


def test_who_migrates_nothing_does_without_alembic(empty: Database) -> None:
    migrate(empty)
    url = empty.engine.url.render_as_string(hide_password=False)
    program = f"""import sys
from lapse import BackgroundWorker, load_settings
assert BackgroundWorker(settings=load_settings(database_url={url!r})).run_once()
assert "alembic" not in sys.modules"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_of_processes_that_migrate_at_once_one_creates_the_schema(empty_database_url: str) -> None:
    command = [sys.executable, "-m", "lapse", "migrate", "--database-url", empty_database_url]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") for _ in range(3)
    ]
    results = [(*process.communicate(timeout=60), process.returncode) for process in started]
    assert [(errors, code) for _, errors, code in results] == [("", 0)] * 3
    said = sorted(output.partition(": ")[2].split()[0] for output, _, _ in results)
    assert said == ["created", "nothing", "nothing"]


@pytest.mark.parametrize("table", ["conversations", "conversation_events"])
def test_a_table_that_lapse_did_not_make_is_refused_and_left_alone(empty: Database, table: str) -> None:
    run_sql(empty, f"CREATE TABLE {table} (id integer PRIMARY KEY, status text)")
    run_sql(empty, f"INSERT INTO {table} VALUES (1, 'mine')")
    for attempt in (migrate, ensure_schema):
        with pytest.raises((ForeignTableError, SchemaMissingError)) as caught:
            attempt(empty)
        if attempt is migrate:
            assert isinstance(caught.value, ForeignTableError)
            assert table in str(caught.value)
    assert tables(empty) == {table}
    assert run_sql(empty, f"SELECT * FROM {table}") == [(1, "mine")]


def test_a_schema_of_a_newer_lapse_is_refused_and_left_alone(empty: Database) -> None:
    migrate(empty)
    run_sql(empty, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    for attempt in (
        migrate,
        check_schema,
        ensure_schema,
        lambda database: ConversationService(database).next_deadlines(),
    ):
        with pytest.raises(SchemaVersionError, match=r"9999.*upgrade lapse"):
            attempt(empty)
    assert run_sql(empty, f"SELECT * FROM {VERSION_TABLE}") == [("9999",)]


def test_the_applications_own_alembic_is_left_alone(empty: Database) -> None:
    run_sql(empty, "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)")
    run_sql(empty, "INSERT INTO alembic_version VALUES ('application-7')")
    migrate(empty)
    assert tables(empty) == {*TABLES, "alembic_version"}
    assert run_sql(empty, "SELECT * FROM alembic_version") == [("application-7",)]


def test_a_migration_that_fails_half_way_leaves_nothing_behind(empty: Database) -> None:
    run_sql(empty, "CREATE TABLE mine (id integer)")
    # Its name is one that a later version needs.
    run_sql(empty, "CREATE INDEX ix_conversations_session_history_not_open ON mine (id)")
    with pytest.raises(Exception, match="ix_conversations_session_history_not_open"):
        migrate(empty)
    assert tables(empty) == {"mine"}
    run_sql(empty, "DROP TABLE mine")
    assert migrate(empty).changed


def test_without_a_schema_only_the_embedded_database_makes_one(empty: Database, backend: str) -> None:
    service = ConversationService(empty)
    if backend == "sqlite":
        assert service.next_deadlines().earliest is None
        assert tables(empty) == set(), "a look makes nothing"
        service.record_message(1, "+5511999999999", "+14155238886")
        assert tables(empty) == TABLES
    else:
        with pytest.raises(SchemaMissingError, match="lapse migrate"):
            service.next_deadlines()
        assert tables(empty) == set()

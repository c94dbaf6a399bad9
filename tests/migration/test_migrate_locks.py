"""A migration that needs the tables for itself waits for them in moments: messages go on, and somebody is named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from threading import Thread

import pytest
from alembic import command

from lapse import Database, DatabaseUnavailableError, migrate
from lapse.store import schema_version, table_locks
from lapse.store.migrate import alembic_config
from lapse.store.operations.schema import head_version
from tests.adoption.legacy_table import connect
from tests.support.sql import run_sql


@pytest.fixture
def older(empty_postgres_url: str) -> Iterator[Database]:
    """Return a database as schema version 0003 made it."""
    with closing(Database(empty_postgres_url)) as database:
        database.schema_transaction(
            lambda connection: command.upgrade(alembic_config(connection=connection), "0003"), retry=False
        )
        yield database


def url_of(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def test_who_holds_a_lock_is_named_messages_go_on_and_nothing_is_changed(
    older: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_locks, "LOCK_WAIT_SECONDS", 1.0)
    refused: list[str] = []

    def upgrade() -> None:
        with closing(Database(url_of(older))) as database, pytest.raises(DatabaseUnavailableError) as caught:
            migrate(database)
        refused.append(str(caught.value))

    with connect(url_of(older), application_name="a report") as report:
        report.execute("BEGIN")
        report.execute("SELECT count(*) FROM conversations")
        migrating = Thread(target=upgrade)
        migrating.start()
        run_beside(older, migrating)
        pid = report.info.backend_pid
    (line,) = refused
    assert line.startswith("the tables stayed locked for 1 seconds, by pid ")
    assert f"pid {pid} (a report)" in line
    assert "the schema has its old version still; end those transactions and run it again" in line
    assert schema_version(older) == "0003"
    assert run_sql(older, "SELECT relname FROM pg_class WHERE relrowsecurity") == []
    assert migrate(older).after == head_version()


def test_a_migration_goes_on_when_the_lock_is_gone(older: Database) -> None:
    with connect(url_of(older)) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE conversation_events IN ROW EXCLUSIVE MODE")
        results = []
        migrating = Thread(target=lambda: results.append(migrate(older)))
        migrating.start()
        time.sleep(0.5)
        assert migrating.is_alive()
        other.execute("COMMIT")
        migrating.join(timeout=20)
    assert [(result.before, result.after) for result in results] == [("0003", head_version())]


def run_beside(database: Database, migrating: Thread) -> None:
    """Write as long as the migration tries; nothing waits behind it for longer than one of its tries."""
    longest, number = 0.0, 0
    while migrating.is_alive():
        began = time.monotonic()
        run_sql(
            database,
            "INSERT INTO conversation_events VALUES (1, gen_random_uuid(), 1, 'a', 'a', 'a', NULL, NULL, NULL, now());"
            "UPDATE conversations SET version = version",
        )
        longest, number = max(longest, time.monotonic() - began), number + 1
    assert number > 1
    assert longest < 2.0

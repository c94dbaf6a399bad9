"""In the midst of an upgrade: the schema is newer than what an old worker or an old application was made for."""

from __future__ import annotations

import signal
from contextlib import closing
from datetime import timedelta

import pytest

from lapse import ConversationService, Database, SchemaVersionError
from lapse.store.table_mapping import VERSION_TABLE
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.commands import error_line, run_lapse, running_lapse
from tests.support.sql import run_sql

NEWER = f"UPDATE {VERSION_TABLE} SET version_num = '9999'"
ADVICE = "a newer lapse made it: upgrade lapse"


def test_a_worker_that_runs_goes_on(database: Database, database_url: str) -> None:
    with running_lapse("worker", "--interval", "1", "--database-url", database_url) as worker:
        worker.wait_for("worker started")
        insert_conversations(database, range(1), expires_in=-timedelta(minutes=1))
        assert worker.wait_for("task processed")["count"] == 1
        run_sql(database, NEWER)
        insert_conversations(database, range(1, 4), expires_in=-timedelta(minutes=1))
        assert worker.wait_for("task processed")["count"] == 3
        assert worker.stop(signal.SIGTERM) < 5
        assert worker.process.returncode == 0


@pytest.mark.parametrize("change", ["RENAME COLUMN actor TO somebody", "RENAME TO events_of_conversations"])
def test_a_worker_looks_again_after_a_failure_and_ends(database: Database, database_url: str, change: str) -> None:
    with running_lapse("worker", "--interval", "1", "--database-url", database_url) as worker:
        worker.wait_for("worker started")
        insert_conversations(database, range(1), expires_in=-timedelta(minutes=1))
        worker.wait_for("task processed")
        run_sql(database, f"ALTER TABLE conversation_events {change}")
        run_sql(database, NEWER)
        insert_conversations(database, range(1, 4), expires_in=-timedelta(minutes=1))
        worker.wait_for("task failed")
        worker.wait_for("worker stopped")
        assert worker.process.wait(20) == 1
        assert worker.stderr.startswith("lapse: the database's schema has version 9999")
        assert worker.stderr.endswith(f"{ADVICE}\n")


@pytest.mark.parametrize("arguments", [("worker",), ("worker", "--once"), ("status",), ("migrate",)])
def test_what_starts_is_refused(database: Database, database_url: str, arguments: tuple[str, ...]) -> None:
    run_sql(database, NEWER)
    result = run_lapse(*arguments, "--database-url", database_url)
    assert result.returncode == 1
    assert "upgrade lapse" in result.stderr
    assert run_sql(database, f"SELECT version_num FROM {VERSION_TABLE}") == [("9999",)]
    if not result.stdout:
        error_line(result, 1)


def test_an_application_that_runs_goes_on_and_one_that_starts_is_refused(database: Database, database_url: str) -> None:
    with closing(ConversationService(database_url)) as old, closing(ConversationService(database_url)) as new:
        opened = old.record_message(1, customer(1), BUSINESS)
        run_sql(database, NEWER)
        assert old.record_message(1, customer(1), BUSINESS).conv_id == opened.conv_id
        with pytest.raises(SchemaVersionError, match=ADVICE):
            new.record_message(1, customer(1), BUSINESS)

"""A worker in hard times: servers that say nothing, statements cut short, locks held by others, stops at start-up."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa

from lapse import Database
from lapse.shutdown import STOP_GRACE_SECONDS
from tests.support.backlog import insert_conversations
from tests.support.commands import LAPSE, environment, running_lapse
from tests.support.invariants import check_invariants
from tests.support.sql import run_sql, transaction
from tests.support.waiting import until_waited_for_a_lock

SLOWEST_STOP_SECONDS = 1.0
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_server_that_says_nothing_does_not_hold_up_a_stop(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/chat"
        with running_lapse("worker", "--database-url", url) as worker:
            worker.wait_for("worker started")
            time.sleep(0.3)
            assert worker.stop(number) < SLOWEST_STOP_SECONDS
            assert worker.process.returncode == 0
            assert worker.log[-1]["event"] == "worker stopped"


def test_a_server_that_says_nothing_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/chat?connect_timeout=2"
        with running_lapse("worker", "--database-url", url) as worker:
            worker.wait_for("waiting for the database")
            assert worker.stop(signal.SIGTERM) < 3
            assert worker.process.returncode == 0


def test_statements_that_are_cut_short_do_not_end_the_worker(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        name = database.engine.url.database
        run_sql(database, f"ALTER DATABASE {name} SET statement_timeout = '200ms'")
        with running_lapse("worker", "--interval", "1", "--database-url", postgres_url) as worker:
            with transaction(database) as connection:
                connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                connection.execute(sa.text("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE"))
                # As a migration of the application, or a VACUUM FULL, would do.
                for _ in range(4):
                    assert "statement timeout" in worker.wait_for("task failed")["error"]
            insert_conversations(database, range(3), expires_in=-timedelta(minutes=1))
            assert worker.wait_for("task processed")["count"] == 3
            assert worker.stop(signal.SIGTERM) < SLOWEST_STOP_SECONDS
            assert worker.process.returncode == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_sqlite_file_that_another_program_holds_does_not_hold_up_a_stop(number: signal.Signals) -> None:
    with closing(Database("sqlite:///held.db")) as database:
        # Importing the command's own way of making the schema would be one more process.
        from lapse.store import migrate

        migrate(database)
        insert_conversations(database, range(3), expires_in=-timedelta(minutes=1))
    with closing(sqlite3.connect("held.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with running_lapse("worker", "--database-url", "sqlite:///held.db") as worker:
            worker.wait_for("worker started")
            time.sleep(0.5)
            assert worker.stop(number) < SLOWEST_STOP_SECONDS
            assert worker.process.returncode == 0
            assert worker.log[-1]["event"] == "worker stopped"
        other.execute("ROLLBACK")
        assert other.execute("SELECT count(*) FROM conversations WHERE status = 'pending'").fetchone() == (3,)


def test_a_batch_that_waits_for_another_programs_lock_is_given_up_for_a_stop(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database, transaction(database) as connection:
        insert_conversations(database, range(3), expires_in=-timedelta(minutes=1))
        # Readers come through, so the worker finds out what is due; its sweep waits.
        connection.execute(sa.text("LOCK TABLE conversations IN EXCLUSIVE MODE"))
        with running_lapse("worker", "--database-url", postgres_url) as worker:
            worker.wait_for("worker started")
            until_waited_for_a_lock(database)
            assert STOP_GRACE_SECONDS <= worker.stop(signal.SIGTERM) < STOP_GRACE_SECONDS + SLOWEST_STOP_SECONDS
            assert worker.process.returncode == 0
            assert [line["event"] for line in worker.log[-2:]] == ["batch given up for the stop", "worker stopped"]
        connection.rollback()
        check_invariants(database)


@pytest.mark.parametrize("after", [0.05, 0.15, 0.25, 0.4, 0.6])
def test_a_stop_at_start_up_is_a_stop(after: float) -> None:
    """Until the handlers are installed, which takes Python itself a moment, the system's own action applies."""
    with running_lapse("worker", "--database-url", "sqlite:///lapse.db") as worker:
        time.sleep(after)
        assert worker.stop(signal.SIGTERM) < SLOWEST_STOP_SECONDS
        assert worker.process.returncode in (0, -signal.SIGTERM)
        assert worker.stderr == ""
        if worker.log:
            assert worker.process.returncode == 0
            assert worker.log[-1]["event"] == "worker stopped"


def test_a_worker_whose_log_nobody_reads_ends_without_a_traceback(database_url: str) -> None:
    with subprocess.Popen(
        [*LAPSE, "worker", "--database-url", database_url],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert b"worker started" in os.read(process.stdout.fileno(), 65_536)
            process.stdout.close()
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert process.stderr.read() == b""
            assert process.wait(20) in (0, 1)
        finally:
            process.kill()

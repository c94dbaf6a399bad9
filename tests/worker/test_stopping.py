"""A signal ends the worker at once, whatever it is doing, with whole batches (LAPSE_STOPS=100: many moments)."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from lapse import Database
from tests.support.backlog import insert_conversations
from tests.support.commands import running_lapse
from tests.support.invariants import check_invariants
from tests.support.sql import own_tables

STOPS = int(os.environ.get("LAPSE_STOPS", "8"))
MEDIAN_SECONDS, SLOWEST_SECONDS = 0.3, 1.0
BATCH, BACKLOG = 500, 15_000
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_while_waiting(database_url: str, number: signal.Signals) -> None:
    with running_lapse("worker", "--database-url", database_url) as worker:
        worker.wait_for("worker started")
        time.sleep(0.3)
        assert worker.stop(number) < SLOWEST_SECONDS
        assert worker.process.returncode == 0
        assert worker.log[-1]["event"] == "worker stopped"
        assert worker.stderr == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_changes_nothing(database_url: str, number: signal.Signals) -> None:
    for pause in (0, 0.005, 0.01, 0.02, 0.04):
        with running_lapse("worker", "--database-url", database_url, "--http", "127.0.0.1:0") as worker:
            worker.wait_for("worker started")
            worker.process.send_signal(number)
            worker.wait_for("worker stopped")
            time.sleep(pause)
            assert worker.stop(number) < SLOWEST_SECONDS
            assert (worker.process.returncode, worker.stderr) == (0, "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_in_a_back_off(number: signal.Signals) -> None:
    with running_lapse("worker", "--database-url", "postgresql://nobody@127.0.0.1:1/none") as worker:
        pauses = [worker.wait_for("waiting for the database")["retry_in_seconds"] for _ in range(3)]
        assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1 <= pauses[2] <= 2, "they grow, with jitter"
        assert worker.stop(number) < SLOWEST_SECONDS
        assert worker.process.returncode == 0
        assert worker.log[-1]["event"] == "worker stopped"
        assert worker.stderr == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_in_a_backlog_leaves_whole_batches(
    database: Database, database_url: str, number: signal.Signals
) -> None:
    insert_conversations(database, range(BACKLOG), expires_in=timedelta(minutes=-5))
    with running_lapse("worker", "--database-url", database_url, "--batch-size", str(BATCH)) as worker:
        worker.wait_for("worker started")
        wait_for_ended(database)
        assert worker.stop(number) < SLOWEST_SECONDS
        assert worker.process.returncode == 0
        assert worker.log[-1]["event"] == "worker stopped"
    ended = ended_in(database)
    assert 0 < ended < BACKLOG, "the signal came too late to find it at work"
    assert ended % BATCH == 0
    check_invariants(database)


@pytest.mark.alone
def test_stops_at_random_moments_are_quick(database: Database, database_url: str) -> None:
    insert_conversations(database, range(BACKLOG), expires_in=timedelta(minutes=-5))
    chance, took = random.Random(7), list[float]()
    for _ in range(STOPS):
        with running_lapse("worker", "--database-url", database_url, "--batch-size", "100") as worker:
            worker.wait_for("worker started")
            time.sleep(chance.uniform(0, 0.5))
            took.append(worker.stop(chance.choice(SIGNALS)))
            assert worker.process.returncode == 0
            assert worker.stderr == ""
    check_invariants(database)
    print(f"{STOPS} stops: median {statistics.median(took):.3f} s, slowest {max(took):.3f} s")  # noqa: T201
    assert statistics.median(took) < MEDIAN_SECONDS
    assert max(took) < SLOWEST_SECONDS


def ended_in(database: Database) -> int:
    # Outside a transaction: on SQLite that would wait for the worker's write lock.
    counted = sa.select(sa.func.count()).select_from(own_tables(database).events)
    return int(database.autocommit(lambda connection: connection.execute(counted).one()[0]))


def wait_for_ended(database: Database) -> None:
    deadline = time.monotonic() + 20
    while not ended_in(database):
        assert time.monotonic() < deadline, "the worker ends nothing"
        time.sleep(0.005)

"""When a worker wakes: at the deadlines, at the pace of each task, and for one cheap query when nothing is due."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import timedelta

import pytest

from lapse import BackgroundWorker, ConversationService, Database, load_settings
from tests.support.backlog import insert_conversations
from tests.support.sql import run_sql
from tests.support.workers import EXPIRED, IDLE, RECEIPTS, in_background


def run_cycles(worker: BackgroundWorker, number: int) -> None:
    """Let the worker run until it has made so many cycles, and close its connections."""
    deadline = time.monotonic() + 30
    with in_background(worker):
        while worker.cycle_count < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def transactions(database: Database) -> int:
    """Return how many transactions were committed in the database by sessions that have ended."""
    run_sql(database, "SELECT pg_stat_clear_snapshot()")
    (row,) = run_sql(database, "SELECT xact_commit AS number FROM pg_stat_database WHERE datname = current_database()")
    return int(row.number)


def transactions_of_cycles(url: str, cycles: int) -> int:
    with closing(Database(url)) as observer:
        before = transactions(observer)
    worker = BackgroundWorker(0.01, min_wait_seconds=0, service=ConversationService(url))
    run_cycles(worker, cycles)
    time.sleep(0.5)  # a session's numbers come a moment after its end
    with closing(Database(url)) as observer:
        return transactions(observer) - before


@pytest.mark.alone
def test_a_wake_with_nothing_due_is_one_query(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        insert_conversations(database, range(20))
    few, many = (transactions_of_cycles(postgres_url, cycles) for cycles in (50, 250))
    # Some cycles more are made until the stop; autovacuum may come by; a second query a wake would be 200 more.
    assert 200 <= many - few < 240


def test_nothing_due_is_a_successful_run_without_a_sweep(database: Database, database_url: str) -> None:
    insert_conversations(database, range(3))
    with closing(ConversationService(database_url)) as service:
        worker = BackgroundWorker(service=service)
        runs = worker.run_cycle(service.next_deadlines())
    assert [(run.task, run.batches, run.error) for run in runs] == [
        (IDLE, 0, None),
        (EXPIRED, 0, None),
        (RECEIPTS, 0, None),
    ]
    assert [metrics.successful_runs for metrics in worker.metrics.values()] == [1, 1, 1]


def test_what_was_armed_with_a_longer_timeout_is_work_at_once(database: Database, database_url: str) -> None:
    insert_conversations(database, range(3), silent_for=timedelta(minutes=10))
    with closing(ConversationService(database_url, settings=load_settings(idle_timeout_minutes=5))) as service:
        worker = BackgroundWorker(service=service)
        first, second = (worker.run_cycle(service.next_deadlines()) for _ in range(2))
    assert [run.ended for run in first] == [3, 0, 0]
    assert [run.batches for run in second] == [0, 0, 0]


def test_a_task_with_a_slower_pace_is_not_woken_for(database: Database, database_url: str) -> None:
    insert_conversations(database, range(3), expires_in=timedelta(seconds=1.5))
    service = ConversationService(database_url)
    worker = BackgroundWorker(30, min_wait_seconds=0.1, service=service)
    worker.task_config[EXPIRED]["interval_multiplier"] = 2
    with in_background(worker):
        time.sleep(3)
        assert worker.cycle_count == 1, "its next turn is in the second cycle after that"
    with closing(ConversationService(database_url)) as later:
        assert len(later.find_expired_conversations()) == 3


def test_the_shortest_time_between_two_cycles_is_a_setting(database: Database, database_url: str) -> None:
    """Deadlines every twentieth of a second for two seconds do not make forty cycles."""
    insert_conversations(database, range(40), expires_in=timedelta(seconds=0.2), step=timedelta(milliseconds=50))
    worker = BackgroundWorker(30, min_wait_seconds=0.7, service=ConversationService(database_url))
    with in_background(worker):
        time.sleep(2.5)
        assert 2 <= worker.cycle_count <= 5
    assert worker.metrics[EXPIRED].total_items_processed > 20

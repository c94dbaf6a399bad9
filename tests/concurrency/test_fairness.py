"""Fifty threads on one service: first come, first served, and no session is opened for a call."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from typing import Any

import pytest

from lapse import ConversationService
from lapse.store.database import MAX_CONNECTIONS
from lapse.store.pool import Pool
from tests.support.backlog import BUSINESS, customer
from tests.support.sql import run_sql

THREADS, CALLS = 50, 200
SLOWEST = 20
"""Times the median of the calls: the longest wait for a connection, which is what lapse decides."""
SLOWEST_WITH_ITS_STATEMENT = 100
"""The same for a whole call. Of so few calls on two processors, with a server of fifteen sessions on them, single
statements take up to 40 medians while no wait takes more than two; the long run is the benchmark `threads`."""


def seconds_of_calls(service: ConversationService, thread: int, number: int = CALLS) -> list[float]:
    """Send one customer's messages, one after the other, and return how long each took."""
    taken = []
    for _ in range(number):
        begin = time.perf_counter()
        service.record_message(1, customer(thread), BUSINESS)
        taken.append(time.perf_counter() - begin)
    return taken


@pytest.mark.alone
def test_no_call_of_fifty_threads_waits_much_longer_than_the_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    acquire = getattr(Pool, "_acquire")  # noqa: B009 - mypy

    def timed(pool: Pool[Any], held: list[Any]) -> None:
        begin = time.perf_counter()
        acquire(pool, held)
        waits.append(time.perf_counter() - begin)

    with closing(ConversationService(database_url)) as service, ThreadPoolExecutor(THREADS) as threads:
        # Of so few calls the first ones, which open the sessions, would be a share that they are of no long run.
        list(threads.map(lambda thread: seconds_of_calls(service, thread, 20), range(THREADS)))
        monkeypatch.setattr(Pool, "_acquire", timed)
        calls = threads.map(lambda thread: seconds_of_calls(service, thread), range(THREADS))
        taken = sorted(chain.from_iterable(calls))
    assert len(taken) == THREADS * CALLS
    assert waits, "a group needs one connection for all of its calls"
    median = statistics.median(taken)
    assert max(waits) <= SLOWEST * median, f"{sorted(waits)[-10:]}, median {median}"
    assert taken[-1] <= SLOWEST_WITH_ITS_STATEMENT * median, f"{taken[-10:]}, median {median}"


def test_no_session_is_opened_for_a_call(postgres_url: str) -> None:
    with closing(ConversationService(postgres_url)) as service, ThreadPoolExecutor(THREADS) as threads:
        service.record_message(1, customer(0), BUSINESS)
        list(threads.map(lambda thread: seconds_of_calls(service, thread), range(THREADS)))
        sessions = run_sql(
            service.database,
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lapse' "
            "AND datname = current_database() AND pid <> pg_backend_pid()",
        )
        # Each session has ended in the statistics by the time that the server has closed it.
        opened = run_sql(service.database, "SELECT sessions FROM pg_stat_database WHERE datname = current_database()")
    assert sessions[0][0] <= MAX_CONNECTIONS
    assert opened[0][0] <= MAX_CONNECTIONS + 5, "and some for the schema and for these looks"

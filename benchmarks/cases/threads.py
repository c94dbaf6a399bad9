"""Fifty threads on one service: how much longer than the others the slowest of 130,000 messages takes.

Each thread sends the messages of one customer, one after the other, through a service that all of them share: first on
PostgreSQL, then on SQLite. A latency is that of the whole call, with its wait for messages that are at the database.
The sessions are those that the server has counted.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain

from benchmarks.bench import Bench
from benchmarks.messages import record
from benchmarks.results import Figure, Goal, Outcome, quantile, quantiles
from lapse import ConversationService
from lapse.store import migrate
from tests.support.sql import run_sql

TITLE = "Fifty threads on one service"
THREADS, MESSAGES = 50, 130_000
LONGEST = 20
"""Times the median."""
SESSIONS = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"


def run(bench: Bench) -> Outcome:
    """Send the messages on both databases."""
    each = bench.rows(MESSAGES, least=1_000) // THREADS
    found: dict[str, list[float]] = {}
    with bench.filled(bench.backlog(live=1_000)) as url:
        found["PostgreSQL"], sessions = latencies(url, each)
    found["SQLite"], _ = latencies(f"sqlite:///{bench.folder / 'threads.db'}", each)
    figures = []
    for name, times in found.items():
        median = quantile(times, 0.5)
        bench.say(f"{name}: median {1000 * median:.1f} ms, slowest {1000 * times[-1]:.0f} ms")
        figures += [
            Figure(f"slowest call on {name}, in medians", times[-1] / median, "", Goal(LONGEST, at_most=True)),
            Figure(f"median of a call on {name}", 1000 * median, "ms"),
        ]
    figures.append(Figure("sessions that PostgreSQL has counted", sessions))
    return Outcome(
        figures=figures,
        parameters={"threads": THREADS, "messages": each * THREADS},
        raw={"seconds_by_per_mille": {name: quantiles(times) for name, times in found.items()}},
    )


def latencies(url: str, each: int) -> tuple[list[float], int]:
    """Return the seconds of every call, the shortest first, and the sessions; `each` thread sends so many messages."""
    with closing(ConversationService(url)) as service, ThreadPoolExecutor(THREADS) as threads:
        migrate(service.database)
        calls = threads.map(lambda thread: send(service, thread, each), range(1, THREADS + 1))
        taken = sorted(chain.from_iterable(calls))
        service.close()
        time.sleep(0.5)  # until the server has counted them
        sessions = run_sql(service.database, SESSIONS)[0][0] if service.database.dialect == "postgresql" else 0
    return taken, int(sessions)


def send(service: ConversationService, customer: int, each: int) -> list[float]:
    """Send messages of one customer, and return the seconds that each took."""
    taken = []
    for _ in range(each):
        begin = time.perf_counter()
        record(service, customer)
        taken.append(time.perf_counter() - begin)
    return taken

"""How late conversations end under a steady load, and what a worker asks when there is nothing to do.

200 conversations a second come due for a minute, while `lapse worker` runs with default settings: half of them by their
expiry, half by their idle timeout. They are inserted five seconds before their deadline, in a table with 100,000 other
ones. Lag is `occurred_at - deadline` of their events.

Then, with nothing due, a worker that wakes every second (`--interval 1`): `pg_stat_statements` counts what it asks.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg

from benchmarks.arrivals import generate
from benchmarks.bench import Bench, connect
from benchmarks.processes import running_worker
from benchmarks.results import Figure, Goal, Outcome, quantile, quantiles

TITLE = "Lag, and the cost of waiting"
RATE = 200
LEAD_SECONDS = 5
_LAGS = """
    SELECT extract(epoch FROM occurred_at - deadline)::float8 FROM conversation_events
    WHERE type IN ('expired', 'paused')
"""
# The observer's own questions are not the worker's.
_ASKED = """
    SELECT regexp_replace(query, '\\s+', ' ', 'g'), calls, mean_exec_time, shared_blks_hit + shared_blks_read
    FROM pg_stat_statements JOIN pg_database ON oid = dbid
    WHERE datname = current_database() AND query NOT LIKE '%pg_stat_statements%' ORDER BY calls DESC
"""


def run(bench: Bench) -> Outcome:
    """Measure the lag, then the questions of a worker with nothing to do."""
    backlog = bench.backlog(between=90_000, live=10_000)
    seconds = bench.seconds(60, least=2)
    number = round(RATE * seconds)
    with bench.filled(backlog) as url, connect(url) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        with running_worker(url=url) as worker:
            worker.hear_event("worker started")
            generate(connection, per_second=RATE, lead_seconds=LEAD_SECONDS, number=number)
            lags = wait_for_lags(connection, number)
            worker.stop()
        bench.say(f"lag: median {quantile(lags, 0.5):.2f} s, 99 % at most {quantile(lags, 0.99):.2f} s")
        wakes, asked = questions_when_idle(url, connection, bench.seconds(20, least=3))
    queries = sum(row["calls"] for row in asked) / wakes
    bench.say(f"{queries:.2f} queries a wake")
    return Outcome(
        figures=[
            Figure("99th percentile of lag at 200 due a second", quantile(lags, 0.99), "s", Goal(1.5, at_most=True)),
            Figure("median lag", quantile(lags, 0.5), "s"),
            Figure("queries per wake of an idle worker", queries, "", Goal(1, at_most=True)),
            Figure("the server's time for them", sum(row["calls"] * row["mean_ms"] for row in asked) / wakes, "ms"),
        ],
        parameters={"due_per_second": RATE, "seconds": seconds, "rows": backlog.rows},
        raw={
            "lag_seconds_by_per_mille": quantiles(lags, digits=4),
            "lags": len(lags),
            "wakes": wakes,
            "asked_when_idle": asked,
        },
    )


def wait_for_lags(connection: psycopg.Connection, number: int) -> list[float]:
    """Wait until all have ended, and return their lags in order."""
    give_up_at = time.monotonic() + LEAD_SECONDS + 60
    while True:
        time.sleep(1)
        lags = sorted(lag for (lag,) in connection.execute(_LAGS))
        if len(lags) >= number or time.monotonic() > give_up_at:
            return lags


def questions_when_idle(url: str, connection: psycopg.Connection, seconds: float) -> tuple[float, list[dict[str, Any]]]:
    """Return how often an idle worker woke, and the statements that it sent meanwhile."""
    with running_worker("--interval=1", url=url) as worker:
        worker.hear_event("worker started")
        time.sleep(1.5)
        connection.execute("SELECT pg_stat_statements_reset()")
        time.sleep(seconds)
        rows = connection.execute(_ASKED.encode()).fetchall()
        worker.stop()
    keys = ("query", "calls", "mean_ms", "blocks")
    return round(seconds), [dict(zip(keys, row, strict=True)) for row in rows]


def plot(axes: Any, raw: dict[str, Any]) -> None:
    """Draw the distribution of the lag."""
    axes.hist(raw["lag_seconds_by_per_mille"], bins=40)
    axes.set(xlabel="lag in seconds", ylabel="of 1,000 conversations", xlim=(0, None))

"""What the server writes to its log for messages on 10,000 existing conversations.

After a checkpoint, `pg_walinspect` adds up the records. The figure is without full page images, whose number depends on
how often there is a checkpoint and not on lapse; with them it is given beside it. HOT is `n_tup_hot_upd` of
`n_tup_upd`.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import psycopg

from benchmarks.backlogs import live_customers
from benchmarks.bench import Bench, connect
from benchmarks.messages import record
from benchmarks.results import Figure, Goal, Outcome
from lapse import ConversationService

TITLE = "What a message writes"
_LSN = "SELECT pg_current_wal_insert_lsn()::text"
_WAL = """
    SELECT "resource_manager/record_type", sum(count)::bigint, sum(record_size)::bigint, sum(fpi_size)::bigint
    FROM pg_get_wal_stats(%s, %s, true) WHERE count > 0 GROUP BY 1 ORDER BY 3 DESC
"""
_UPDATES = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'conversations'"


def run(bench: Bench) -> Outcome:
    """Count the bytes."""
    backlog = bench.backlog(between=90_000, live=10_000)
    customers = live_customers(backlog)
    messages = 10 * len(customers)
    with bench.filled(backlog) as url, connect(url) as observer:
        observer.execute("CREATE EXTENSION pg_walinspect")
        with closing(ConversationService(url)) as service:
            record(service, customers[0])
            before = updates(observer)
            observer.execute("CHECKPOINT")
            begin = value(observer, _LSN)
            for number in range(messages):
                record(service, customers[number * 7919 % len(customers)])
            end = value(observer, _LSN)
        records = observer.execute(_WAL, [begin, end]).fetchall()
        after = wait_for_updates(observer, before[0] + messages)
    plain, images = (sum(int(row[column]) for row in records) / messages for column in (2, 3))
    hot = (after[1] - before[1]) / (after[0] - before[0])
    bench.say(f"{plain:.0f} bytes a message, and {images:.0f} of full page images; {hot:.2%} HOT")
    return Outcome(
        figures=[
            Figure("WAL per message on an existing conversation", plain, "bytes", Goal(220, at_most=True)),
            Figure("the same with full page images after one checkpoint", plain + images, "bytes"),
            Figure("HOT updates", 100 * hot, "%", Goal(100)),
        ],
        parameters={"messages": messages, "conversations": len(customers)},
        raw={
            "records": {
                name: {"count": int(count), "bytes": int(size), "images": int(image)}
                for name, count, size, image in records
            }
        },
    )


def value(observer: psycopg.Connection, query: str) -> Any:
    """Return the only value of a query."""
    row = observer.execute(query.encode()).fetchone()
    return row[0] if row else None


def updates(observer: psycopg.Connection) -> tuple[int, int]:
    """Return how many updates there were, and how many of them HOT."""
    row = observer.execute(_UPDATES).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def wait_for_updates(observer: psycopg.Connection, number: int) -> tuple[int, int]:
    """A closed session reports what it did a moment later."""
    give_up_at = time.monotonic() + 20
    while (found := updates(observer))[0] < number and time.monotonic() < give_up_at:
        time.sleep(0.05)
    return found

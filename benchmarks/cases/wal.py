"""What the server writes to its log for messages on 10,000 existing conversations.

After a checkpoint, `pg_walinspect` adds up the records. The figure is without full page images, whose number depends on
how often there is a checkpoint and not on lapse; with them it is given beside it. HOT is `n_tup_hot_upd` of
`n_tup_upd`.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict

import psycopg

from benchmarks.backlogs import live_customers
from benchmarks.bench import Bench, connect
from benchmarks.messages import record
from benchmarks.results import Figure, Goal, Outcome
from benchmarks.wal import WalMeter
from lapse import ConversationService

TITLE = "What a message writes"
MESSAGES_EACH = 2
SHOWN = 4
_UPDATES = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'conversations'"


def run(bench: Bench) -> Outcome:
    """Count the bytes."""
    backlog = bench.backlog(between=90_000, live=10_000)
    customers = live_customers(backlog)
    messages = MESSAGES_EACH * len(customers)
    with bench.filled(backlog) as url, connect(url) as observer, closing(WalMeter(url)) as meter:
        with closing(ConversationService(url)) as service:
            for customer in customers:
                record(service, customer)  # from here on each pair is known
            before = updates(observer)
            meter.start()
            for number in range(messages):
                record(service, customers[number * 7919 % len(customers)])
            wal = meter.stop()
        after = wait_for_updates(observer, before[0] + messages)
    plain, images = wal.bytes / messages, wal.image_bytes / messages
    hot = (after[1] - before[1]) / (after[0] - before[0])
    bench.say(f"{plain:.0f} bytes a message, and {images:.0f} of full page images; {hot:.2%} HOT")
    return Outcome(
        figures=[
            Figure("WAL per message on an existing conversation", plain, "bytes", Goal(220, at_most=True)),
            *(Figure(f"of it {found.kind}", found.bytes / messages, "bytes") for found in wal.records[:SHOWN]),
            Figure("with full page images after one checkpoint", plain + images, "bytes"),
            Figure("HOT updates", 100 * hot, "%", Goal(100)),
        ],
        parameters={"messages": messages, "conversations": len(customers)},
        raw={"records": [asdict(found) for found in wal.records]},
    )


def updates(observer: psycopg.Connection) -> tuple[int, int]:
    """Return how many updates there were, and how many of them HOT."""
    row = observer.execute(_UPDATES).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def wait_for_updates(observer: psycopg.Connection, number: int) -> tuple[int, int]:
    """A session reports what it did a moment later, at the latest when it is closed."""
    give_up_at = time.monotonic() + 20
    while (found := updates(observer))[0] < number and time.monotonic() < give_up_at:
        time.sleep(0.05)
    return found

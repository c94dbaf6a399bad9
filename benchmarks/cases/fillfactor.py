"""Messages on 20,000 conversations, two for each, with different fillfactors of the table.

Each time the table is written anew (`VACUUM FULL`) with that fillfactor, so that its pages are as full as inserts leave
them. Commits do not wait for the disk here: neither what is HOT nor what is written depends on it.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from benchmarks.backlogs import live_customers
from benchmarks.bench import Bench, connect
from benchmarks.cases.wal import updates, wait_for_updates
from benchmarks.messages import record
from benchmarks.results import Figure, Outcome
from benchmarks.wal import WalMeter
from lapse import ConversationService
from lapse.store.tables import FILLFACTOR

TITLE = "Fillfactor"
FILLFACTORS = (100, 95, 90, FILLFACTOR, 70)
MESSAGES_EACH = 2


def run(bench: Bench) -> Outcome:
    """Count what was HOT, and the size of the table."""
    backlog = bench.backlog(between=80_000, live=20_000)
    customers = live_customers(backlog)
    messages = MESSAGES_EACH * len(customers)
    figures: list[Figure] = []
    raw: dict[str, Any] = {}
    with bench.filled(backlog) as url, connect(url) as observer:
        name = observer.info.dbname
        observer.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off'.encode())
        for fillfactor in FILLFACTORS:
            options = f"(fillfactor = {fillfactor}, autovacuum_enabled = off)"
            observer.execute(f"ALTER TABLE conversations SET {options}".encode())
            observer.execute("VACUUM (FULL, ANALYZE) conversations")
            hot, size, wal = messages_on(url, customers, messages)
            raw[str(fillfactor)] = {"hot_percent": hot, "table_mb": size, "wal_bytes": wal}
            bench.say(f"{fillfactor}: {hot:.1f} % HOT, {wal:.0f} bytes of WAL a message, {size:.0f} MB")
            figures += [
                Figure(f"fillfactor {fillfactor}: HOT updates", hot, "%"),
                Figure(f"fillfactor {fillfactor}: size of the table afterwards", size, "MB"),
            ]
    return Outcome(figures=figures, parameters={"messages": messages, "conversations": backlog.rows}, raw=raw)


def messages_on(url: str, customers: range, messages: int) -> tuple[float, float, float]:
    """Return how many per cent were HOT, the table's MB, and the bytes of WAL a message, without full page images."""
    with connect(url) as observer, closing(WalMeter(url)) as meter:
        before = updates(observer)
        with closing(ConversationService(url)) as service:
            record(service, customers[0])
            meter.start()
            for number in range(messages):
                record(service, customers[number * 7919 % len(customers)])
            wal = meter.stop()
        after = wait_for_updates(observer, before[0] + messages)
        size = observer.execute("SELECT pg_relation_size('conversations')").fetchone()
    hot = 100 * (after[1] - before[1]) / (after[0] - before[0])
    return hot, (size[0] if size else 0) / 1e6, wal.bytes / messages

"""Workers inside the test's own process, and what they leave behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from lapse import BackgroundWorker, ConversationService, Database
from tests.support.sql import run_sql

IDLE, EXPIRED, RECEIPTS = "idle_conversations", "expired_conversations", "receipts"


@contextmanager
def worker_on(url: str, **options: Any) -> Iterator[BackgroundWorker]:
    """Hand out a worker that does what the test tells it, one step at a time."""
    with closing(ConversationService(url)) as service:
        yield BackgroundWorker(service=service, **options)


@contextmanager
def in_background(worker: BackgroundWorker) -> Iterator[None]:
    """Let the worker run in a thread, and stop it afterwards."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(20)
    assert not thread.is_alive()


def counts(database: Database) -> dict[str, int]:
    """Return how many conversations are in each status that one is in."""
    rows = run_sql(database, "SELECT status, count(*) AS number FROM conversations GROUP BY status")
    return {row.status: row.number for row in rows}

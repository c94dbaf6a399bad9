"""Transactions that lock the table: each attempt waits briefly for the lock, so that no writer queues behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import Connection
from psycopg.errors import DeadlockDetected, LockNotAvailable

from lapse.errors import AdoptionError
from lapse.store.table_locks import LOCK_TIMEOUT_MS, holders_query

RETRY_DELAY_SECONDS = 0.5
LOCK_WAIT_SECONDS = 600.0


def with_lock_retries(
    connection: Connection[Any],
    table: str,
    work: Callable[[], None] | Sequence[str],
    *,
    wait: Callable[[float], object] = time.sleep,
    message: Callable[[str], None] = lambda line: None,
) -> None:
    """Run one transaction with a `lock_timeout` of `LOCK_TIMEOUT_MS`, again and again until it gets its locks.

    Args:
        connection: in autocommit mode.
        table: the schema-qualified name of the table that is locked.
        work: SQL statements, or a function that executes them.
        wait: waits so many seconds between attempts; may raise to give up.
        message: receives a line that names the holders of the lock after each failed attempt.

    Raises:
        AdoptionError: the lock was not available for `LOCK_WAIT_SECONDS`.
        psycopg.Error: the database refused a statement, or the connection is lost.
    """
    give_up_at = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'".encode())
                if callable(work):
                    work()
                else:
                    for statement in work:
                        connection.execute(statement.encode())
        except (LockNotAvailable, DeadlockDetected):
            rows = connection.execute(holders_query(table).encode())
            holders = [f"pid {pid} ({name})" for pid, name in rows]
            if time.monotonic() > give_up_at:
                raise AdoptionError(
                    f"{table} was locked for {LOCK_WAIT_SECONDS / 60:.0f} minutes, by {', '.join(holders)}: the "
                    "completed steps are kept; end those transactions, then run it again"
                ) from None
            message(f"waiting for a lock on {table}, held by {', '.join(holders) or 'an unknown session'}")
            wait(RETRY_DELAY_SECONDS)
        else:
            return

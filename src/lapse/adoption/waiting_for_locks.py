"""Changes that need a lock on the table: tried for a moment, given up, tried again, so that no writer waits behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import Connection
from psycopg.errors import DeadlockDetected, LockNotAvailable

from lapse.errors import AdoptionError
from lapse.store.table_locks import LOCK_TIMEOUT_MS, holders_query

PAUSE_SECONDS = 0.5
PATIENCE_SECONDS = 600.0


def in_short_transaction(
    connection: Connection[Any],
    table: str,
    work: Callable[[], None] | Sequence[str],
    *,
    wait: Callable[[float], object] = time.sleep,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Do something in one transaction that never waits long for a lock, again and again until it gets it.

    Args:
        connection: in autocommit mode.
        table: whose lock it is, with its schema.
        work: statements, or what runs them.
        wait: waits so many seconds; may raise to give up.
        tell: is told once in a while who holds the lock.

    Raises:
        AdoptionError: somebody has held the lock for ten minutes.
    """
    give_up_at = time.monotonic() + PATIENCE_SECONDS
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
            found = connection.execute(holders_query(table).encode())
            holders = [f"pid {pid} ({name})" for pid, name in found]
            if time.monotonic() > give_up_at:
                raise AdoptionError(
                    f"{table} stayed locked for {PATIENCE_SECONDS / 60:.0f} minutes, by {', '.join(holders)}: what was "
                    "done so far stays done; end those transactions and run it again"
                ) from None
            tell(f"waiting for a lock on {table}, held by {', '.join(holders) or 'somebody'}")
            wait(PAUSE_SECONDS)
        else:
            return

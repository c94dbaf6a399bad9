"""Changes that need a lock on the table: tried for a moment, given up, tried again, so that no writer waits behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import Connection
from psycopg.errors import DeadlockDetected, LockNotAvailable

from lapse.errors import AdoptionError

LOCK_TIMEOUT_MS = 200
"""Who waits for a lock on the table makes every writer wait that comes later."""
AUTOVACUUM_SECONDS = 3
"""Longer than the server's `deadlock_timeout`: after that an autovacuum gives way to who waits for it."""
PAUSE_SECONDS = 0.5
PATIENCE_SECONDS = 600.0

_HOLDERS = """
    SELECT DISTINCT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.relation = to_regclass(%s) AND l.granted AND l.pid <> pg_backend_pid()
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY a.pid"""


def taking(table: str) -> list[str]:
    """Return the statements with which a short transaction takes a table for itself, just before it changes it.

    Nobody who reads or writes waits behind the first lock, so it may be waited for until an autovacuum has given way.
    """
    return [
        f"SET LOCAL lock_timeout = '{AUTOVACUUM_SECONDS}s'",
        f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE",
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'",
        f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
    ]


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
            holders = [f"pid {pid} ({name or 'unnamed'})" for pid, name in connection.execute(_HOLDERS, [table])]
            if time.monotonic() > give_up_at:
                raise AdoptionError(
                    f"{table} stayed locked for {PATIENCE_SECONDS / 60:.0f} minutes, by {', '.join(holders)}: what was "
                    "done so far stays done; end those transactions and run it again"
                ) from None
            tell(f"waiting for a lock on {table}, held by {', '.join(holders) or 'somebody'}")
            wait(PAUSE_SECONDS)
        else:
            return

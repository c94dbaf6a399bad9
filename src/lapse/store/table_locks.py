"""Table locks with a short timeout: every later writer queues behind a session that waits for one."""

from __future__ import annotations

from collections.abc import Sequence

LOCK_WAIT_SECONDS = 30.0
"""For how long a migration tries to lock the tables; each try is short, since messages wait behind it."""
PAUSE_SECONDS = 0.5
LOCK_TIMEOUT_MS = 200
AUTOVACUUM_SECONDS = 3
"""Longer than the server's `deadlock_timeout`: after that an autovacuum gives way to who waits for it."""


def taking(*tables: str) -> list[str]:
    """Return the statements with which a short transaction takes tables for itself, just before it changes them.

    Nobody who reads or writes waits behind the first lock, so it may be waited for until an autovacuum has given way.
    """
    listed = ", ".join(tables)
    return [
        f"SET LOCAL lock_timeout = '{AUTOVACUUM_SECONDS}s'",
        f"LOCK TABLE {listed} IN SHARE UPDATE EXCLUSIVE MODE",
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'",
        f"LOCK TABLE {listed} IN ACCESS EXCLUSIVE MODE",
    ]


def holders_query(*tables: str) -> str:
    """Return the query of the other sessions that hold locks on these tables: `pid` and `name`."""
    return f"""
        SELECT DISTINCT a.pid, coalesce(nullif(a.application_name, ''), 'unnamed') AS name
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.relation IN ({", ".join(map(oid_of, tables))}) AND l.granted AND l.pid <> pg_backend_pid()
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY a.pid"""  # noqa: S608 - of names


def locked(holders: Sequence[str]) -> str:
    """Return what a migration says of those who held a lock all the time."""
    return (
        f"the tables stayed locked for {LOCK_WAIT_SECONDS:.0f} seconds, by {', '.join(holders) or 'somebody'}: "
        "the schema has its old version still; end those transactions and run it again"
    )


def oid_of(table: str) -> str:
    """Return the expression of a table's oid, which is NULL where there is none of this name (as SQL spells it)."""
    quoted = table.replace("'", "''")
    return f"to_regclass('{quoted}')"

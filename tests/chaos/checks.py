"""What must hold after every fault, and the wait until the workers have done what is due."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from lapse import Database
from tests.chaos.fleet import RECOVERY_SECONDS, Fleet
from tests.chaos.ledger import History, check_calls
from tests.chaos.writers import Call
from tests.support.backlog import present
from tests.support.invariants import ACTIVE, check_invariants
from tests.support.sql import run_sql


def count_unfinished(database: Database) -> int:
    """Return how many conversations are active still, or past their expiry."""
    now: Any = present(database).astimezone(UTC)
    if database.dialect == "sqlite":
        now = now.strftime("%Y-%m-%d %H:%M:%S.%f")
    query = f"""
        SELECT count(*) FROM conversations
        WHERE status IN {ACTIVE} OR (status = 'idle_timeout' AND expires_at < :now)"""
    return int(run_sql(database, query, now=now)[0][0])


def wait_until_finished(database: Database, seconds: float) -> float:
    """Wait until the workers have ended all that there is, and return how long it took; for timeouts of seconds.

    Raises:
        AssertionError: something is still active, or past its expiry.
    """
    begin = time.monotonic()
    while unfinished := count_unfinished(database):
        assert time.monotonic() - begin < seconds, f"{unfinished} conversations did not end in {seconds} seconds"
        time.sleep(0.1)
    return time.monotonic() - begin


def check_all(database: Database, calls: Sequence[Call], idle_seconds: int) -> History:
    """Fail where an invariant is broken, or a caller was told something else; return what is in the database."""
    check_invariants(database)
    history = History.of(database)
    check_calls(history, calls, idle_seconds)
    return history


def check_recovery(seconds: Sequence[float]) -> float:
    """Fail where workers took too long to work again; return the longest time."""
    longest = max(seconds)
    assert longest <= RECOVERY_SECONDS, f"workers worked again after {longest:.1f} seconds: {sorted(seconds)[-5:]}"
    return round(longest, 2)


def check_retries(fleet: Fleet, error: str, seconds: float) -> int:
    """Fail where workers did not try again, or did so too often; return how often one of them did.

    Their waits grow to five seconds; chance halves a wait at most.
    """
    retries = fleet.retries(error)
    assert 2 <= retries <= 6 + seconds / 2.5, f"a task failed {retries} times in {seconds} seconds"
    return retries

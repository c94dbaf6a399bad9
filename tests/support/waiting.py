"""Waiting for what comes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from lapse.store import Database
from tests.support.sql import run_sql

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 20, pause: float = 0.02) -> T:
    """Ask until the answer is a true one, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in {seconds} seconds: {found!r}"
        time.sleep(pause)
    return found


def until_waited_for_a_lock(database: Database) -> None:
    """Wait until a session of this database on PostgreSQL waits for another one's lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    until(lambda: run_sql(database, waiting))

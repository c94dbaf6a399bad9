"""A backlog for workers whose timeouts are seconds: a part of it is due, the rest becomes due while a fault lasts."""

from __future__ import annotations

from datetime import timedelta

from lapse import Database
from tests.support.backlog import insert_conversations

CHUNK = 10_000


def insert_backlog(database: Database, number: int, idle_seconds: int, coming_seconds: float) -> None:
    """Write conversations of which one half will be paused, the other end as expired.

    Half of each is due already, for as long as the other half will take to become so.
    """
    spread, idle = timedelta(seconds=2 * coming_seconds), timedelta(seconds=idle_seconds)
    half = number // 2
    step = spread / half
    for first in range(0, half, CHUNK):
        numbers, ago = range(first, min(first + CHUNK, half)), spread / 2 - first * step
        insert_conversations(database, numbers, silent_for=idle + ago, step=step, idle_timeout=idle)
        expiring = range(half + numbers.start, half + numbers.stop)
        insert_conversations(database, expiring, expires_in=-ago, step=step, idle_timeout=idle)

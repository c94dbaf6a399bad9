"""Workers are killed in the middle of what they do, while messages keep coming."""

from __future__ import annotations

import random
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

from lapse import Database
from tests.backlog import insert_conversations
from tests.chaos.checks import check_all, check_recovery, wait_until_finished
from tests.chaos.fleet import recovery_seconds, running_fleet
from tests.chaos.ledger import check_errors
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.chaos.writers import running_writers

WORKERS = 4
KILLS = scaled(small=8, full=100)
BACKLOG = scaled(small=4_000, full=200_000)
COMING_SECONDS = scaled(small=3, full=60)
"""Half of the backlog is due at the start, the rest becomes due within this time."""
IDLE_SECONDS = 2
CHUNK = 10_000


def insert_backlog(database: Database, number: int) -> None:
    """Write conversations of which one half will be paused, the other end as expired."""
    spread = timedelta(seconds=2 * COMING_SECONDS)
    idle = timedelta(seconds=IDLE_SECONDS)
    half, step = number // 2, spread / (number // 2)
    for first in range(0, half, CHUNK):
        numbers, ago = range(first, min(first + CHUNK, half)), spread / 2 - first * step
        insert_conversations(database, numbers, silent_for=idle + ago, step=step, idle_timeout=idle)
        expiring = range(half + numbers.start, half + numbers.stop)
        insert_conversations(database, expiring, silent_for=spread, expires_in=-ago, step=step, idle_timeout=idle)


def test_killed_workers_leave_nothing_behind(chaos_url: str, chance: random.Random, outcome: Outcome) -> None:
    killed: list[datetime] = []
    with closing(Database(chaos_url)) as database:
        insert_backlog(database, BACKLOG)
        with (
            running_writers(chaos_url, 2, chance, idle_seconds=IDLE_SECONDS, shared_pairs=BACKLOG) as writers,
            running_fleet(*[chaos_url] * WORKERS, idle_seconds=IDLE_SECONDS, batch_size=20) as fleet,
        ):
            while len(killed) < KILLS:
                time.sleep(chance.uniform(0, 2 * COMING_SECONDS / KILLS))
                # Mostly one; now and then so many that nobody is left.
                number = min(chance.choice([1, 1, 1, WORKERS]), KILLS - len(killed))
                killed += [datetime.now(UTC)] * number
                fleet.kill(chance.sample(range(WORKERS), number))
            time.sleep(2)
            writers.stop()
            settled = wait_until_finished(database, 60)
            fleet.stop()
            fleet.check_log()
            assert fleet.complaints() == []
        history = check_all(database, writers.calls, IDLE_SECONDS)
        assert check_errors(writers.calls, allowed=()) == 0
        outcome.add(
            database,
            kills=len(killed),
            backlog=BACKLOG,
            calls=len(writers.calls),
            events=history.count("paused", "expired", "activated", "reactivated", "closed", "failed"),
            paused=history.count("paused"),
            expired=history.count("expired"),
            longest_recovery_seconds=check_recovery(recovery_seconds(killed, history.moments("worker"))),
            settled_seconds=round(settled, 1),
        )

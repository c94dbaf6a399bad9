"""Workers are killed in the middle of what they do, while messages keep coming."""

from __future__ import annotations

import random
import time
from contextlib import closing
from datetime import UTC, datetime

from lapse import Database
from tests.chaos.backlog import insert_backlog
from tests.chaos.checks import check_all, check_recovery, wait_until_finished
from tests.chaos.fleet import recovery_seconds, running_fleet
from tests.chaos.ledger import check_errors
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.chaos.writers import running_writers

WORKERS = scaled(small=2, full=4)
KILLS = scaled(small=6, full=100)
BACKLOG = scaled(small=2_000, full=200_000)
AT_ONCE = scaled(small=[1], full=[1, 1, 1, WORKERS])
COMING_SECONDS = scaled(small=3, full=60)
"""Half of the backlog is due at the start, the rest becomes due within this time."""
IDLE_SECONDS = scaled(small=2, full=5)
BATCH_SIZE = scaled(small=20, full=None)


def test_killed_workers_leave_nothing_behind(chaos_url: str, chance: random.Random, outcome: Outcome) -> None:
    killed: list[datetime] = []
    with closing(Database(chaos_url)) as database:
        insert_backlog(database, BACKLOG, IDLE_SECONDS, COMING_SECONDS)
        with (
            running_writers(chaos_url, 2, chance, idle_seconds=IDLE_SECONDS, shared_pairs=BACKLOG) as writers,
            running_fleet(*[chaos_url] * WORKERS, idle_seconds=IDLE_SECONDS, batch_size=BATCH_SIZE) as fleet,
        ):
            while len(killed) < KILLS:
                fleet.wait_until_working()
                time.sleep(chance.uniform(0, COMING_SECONDS / KILLS))
                # Mostly one; now and then so many that nobody is left, until the new ones have started.
                number = min(chance.choice(AT_ONCE), KILLS - len(killed))
                killed += [datetime.now(UTC)] * number
                fleet.kill(chance.sample(range(WORKERS), number))
            time.sleep(1)
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

"""Eight processes write to one SQLite file, and are killed in the middle of it."""

from __future__ import annotations

import random
import sqlite3
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
from tests.conftest import NewDatabase

SECONDS = scaled(small=4, full=120)
WRITERS, WORKERS = scaled(small=(2, 2), full=(5, 3))
KILLS = scaled(small=4, full=50)
BACKLOG = scaled(small=500, full=20_000)
IDLE_SECONDS = 1


def test_processes_on_one_file_wait_for_each_other(
    new_database: NewDatabase, chance: random.Random, outcome: Outcome
) -> None:
    url, killed = new_database("sqlite"), list[datetime]()
    with closing(Database(url)) as database:
        insert_backlog(database, BACKLOG, IDLE_SECONDS, coming_seconds=SECONDS)
    with (
        closing(Database(url)) as database,
        running_writers(url, WRITERS, chance, idle_seconds=IDLE_SECONDS, shared_pairs=BACKLOG) as writers,
        running_fleet(*[url] * WORKERS, idle_seconds=IDLE_SECONDS, batch_size=20) as fleet,
    ):
        begin = time.monotonic()
        for moment in sorted(chance.uniform(0, SECONDS) for _ in range(KILLS)):
            time.sleep(max(0, begin + moment - time.monotonic()))
            killed.append(datetime.now(UTC))
            if chance.randrange(WRITERS + WORKERS) < WRITERS:
                writers.kill_one(chance)
            else:
                fleet.kill([chance.randrange(WORKERS)])
        time.sleep(max(0, begin + SECONDS - time.monotonic()))
        writers.stop()
        settled = wait_until_finished(database, 60)
        fleet.stop()
        fleet.check_log()
        assert fleet.complaints() == []
        assert check_errors(writers.calls, allowed=()) == 0
        history = check_all(database, writers.calls, IDLE_SECONDS)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    outcome.add(
        processes=WRITERS + WORKERS,
        seconds=SECONDS,
        kills=KILLS,
        calls=len(writers.calls),
        slowest_call_seconds=max(call.answer["seconds"] for call in writers.calls if call.answer),
        events=sum(map(len, history.events.values())),
        longest_recovery_seconds=check_recovery(recovery_seconds(killed, history.moments("worker"))),
        settled_seconds=round(settled, 1),
    )

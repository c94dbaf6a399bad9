"""A worker stands still, in the middle of whatever it does, for longer than every time limit, and then goes on."""

from __future__ import annotations

import random
import signal
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

from lapse import Database
from lapse.store.drivers.postgresql import CONNECT_TIMEOUT_SECONDS, TCP_USER_TIMEOUT_MS
from lapse.store.retries import BUSY_TIMEOUT_SECONDS, RETRY_TIMEOUT_SECONDS
from lapse.worker.task import MAX_BACKOFF_SECONDS
from tests.chaos.backlog import insert_backlog
from tests.chaos.checks import check_all, check_recovery, wait_until_finished
from tests.chaos.fleet import RECOVERY_SECONDS, Fleet, recovery_seconds, running_fleet
from tests.chaos.ledger import check_errors
from tests.chaos.outcome import Outcome
from tests.chaos.scale import is_full, scaled
from tests.chaos.writers import running_writers
from tests.support.backlog import insert_conversations
from tests.support.sql import run_sql

SHORT_STOPS = scaled(small=4, full=60)
LONG_STOP_SECONDS = scaled(small=2.5, full=40)
SERVER_LIMIT_SECONDS = scaled(small=1, full=10)
BACKLOG = scaled(small=2_000, full=50_000)
IDLE_SECONDS = 1
LIMITS = ("statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout")


def stand_still(fleet: Fleet, places: list[int], seconds: float) -> None:
    for place in places:
        fleet.running[place].process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    for place in places:
        fleet.running[place].process.send_signal(signal.SIGCONT)


def test_a_worker_that_stood_still_doubles_nothing(chaos_url: str, chance: random.Random, outcome: Outcome) -> None:
    own = [BUSY_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, TCP_USER_TIMEOUT_MS / 1_000]
    limits = [*own, RETRY_TIMEOUT_SECONDS, MAX_BACKOFF_SECONDS, SERVER_LIMIT_SECONDS]
    assert max(limits if is_full() else limits[-1:]) < LONG_STOP_SECONDS
    with (
        closing(Database(chaos_url)) as database,
        running_writers(chaos_url, 1, chance, idle_seconds=IDLE_SECONDS) as writers,
        running_fleet(*[chaos_url] * 3, idle_seconds=IDLE_SECONDS, batch_size=20) as fleet,
    ):
        for limit in LIMITS:
            run_sql(database, f"ALTER DATABASE {database.engine.url.database} SET {limit} = '{SERVER_LIMIT_SECONDS}s'")
        insert_backlog(database, BACKLOG, IDLE_SECONDS, coming_seconds=SHORT_STOPS)
        for worker in fleet.running:
            worker.wait_for("task processed")
        for _ in range(SHORT_STOPS):
            stand_still(fleet, chance.sample(range(3), chance.choice([1, 2])), chance.uniform(0.05, 1))
            time.sleep(chance.uniform(0, 0.3))
        stand_still(fleet, [0], LONG_STOP_SECONDS)
        woken = datetime.now(UTC)
        # The others may not do its work for it now.
        rest = fleet.running[1:]
        for worker in rest:
            worker.process.send_signal(signal.SIGSTOP)
        fleet.running[0].lines()
        database.close()  # its session was idle for too long, too
        insert_conversations(database, range(BACKLOG, BACKLOG + 100), silent_for=timedelta(minutes=1))
        fleet.running[0].wait_for("task processed", timeout=RECOVERY_SECONDS)
        for worker in rest:
            worker.process.send_signal(signal.SIGCONT)
        writers.stop()
        settled = wait_until_finished(database, 60)
        fleet.stop()
        fleet.check_log()
        history = check_all(database, writers.calls, IDLE_SECONDS)
        outcome.add(
            database,
            short_stops=SHORT_STOPS,
            long_stop_seconds=LONG_STOP_SECONDS,
            worker_complaints=len(fleet.complaints()),
            calls=len(writers.calls),
            errors_to_callers=check_errors(writers.calls),
            events=sum(map(len, history.events.values())),
            longest_recovery_seconds=check_recovery(recovery_seconds([woken], history.moments("worker"))),
            settled_seconds=round(settled, 1),
        )

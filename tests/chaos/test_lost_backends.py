"""The database loses its backends: ended by an administrator, killed by the system, gone with the whole server."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

from lapse import Database
from tests.chaos.checks import check_all, check_recovery, wait_until_finished
from tests.chaos.conftest import migrated, wait_for_server
from tests.chaos.fleet import RECOVERY_SECONDS, recovery_seconds, running_fleet
from tests.chaos.ledger import check_errors
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.chaos.writers import running_writers
from tests.support.postgres import Server
from tests.support.postgres_process import ServerProcess

TERMINATIONS = scaled(small=4, full=100)
KILLS = scaled(small=1, full=20)
RESTARTS = scaled(small=1, full=5)
IDLE_SECONDS = 1
LAPSES = "FROM pg_stat_activity WHERE application_name = 'lapse'"


class Faults:
    """What is done to the server, each noting the moment from which on lapse could work again."""

    def __init__(self, process: ServerProcess, chance: random.Random) -> None:
        self._process = process
        self._server = Server("own", process.admin_url)
        self._chance = chance
        self.struck: list[datetime] = []

    def terminate(self) -> None:
        """End one backend."""
        ended = self._server.execute(
            f"SELECT pg_terminate_backend(pid) FROM (SELECT pid {LAPSES} ORDER BY random() LIMIT 1) AS one"
        )
        assert ended == [(True,)]
        self.struck.append(datetime.now(UTC))
        time.sleep(self._chance.uniform(0.05, 0.4))

    def kill(self) -> None:
        """Kill one backend; the server then ends all the others and repairs itself."""
        pid = self._chance.choice(self._server.execute(f"SELECT pid {LAPSES}"))[0]
        self.struck.append(datetime.now(UTC))
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        wait_for_server(self._process, RECOVERY_SECONDS)
        time.sleep(self._chance.uniform(1, 3))

    def restart(self) -> None:
        """Stop the server without a word, and start it again."""
        self._process.stop("immediate")
        self.struck.append(datetime.now(UTC))
        self._process.start()
        time.sleep(self._chance.uniform(1, 3))


def test_lost_backends_cost_nothing_but_time(
    durable_server: ServerProcess, chance: random.Random, outcome: Outcome
) -> None:
    url = migrated(durable_server)
    with (
        closing(Database(url)) as database,
        running_writers(url, 2, chance, idle_seconds=IDLE_SECONDS) as writers,
        running_fleet(url, url, idle_seconds=IDLE_SECONDS) as fleet,
    ):
        for worker in fleet.running:
            worker.wait_for("task processed")
        faults = Faults(durable_server, chance)
        plan: list[Callable[[], None]] = [faults.terminate] * TERMINATIONS
        plan += [faults.kill] * KILLS + [faults.restart] * RESTARTS
        chance.shuffle(plan)
        for strike in plan:
            strike()
        time.sleep(1)
        writers.stop()
        settled = wait_until_finished(database, 60)
        fleet.stop()
        fleet.check_log()
        history = check_all(database, writers.calls, IDLE_SECONDS)
        outcome.add(
            database,
            terminations=TERMINATIONS,
            kills=KILLS,
            restarts=RESTARTS,
            calls=len(writers.calls),
            errors_to_callers=check_errors(writers.calls),
            worker_complaints=len(fleet.complaints()),
            events=sum(map(len, history.events.values())),
            longest_recovery_seconds=check_recovery(recovery_seconds(faults.struck, history.moments("worker"))),
            settled_seconds=round(settled, 1),
        )

"""A database that only reads for a while, as one does after a failover, at a size limit, or by an operator's hand."""

from __future__ import annotations

import random
import time
from contextlib import closing
from datetime import UTC, datetime

import pytest
from sqlalchemy import make_url

from lapse import ConversationService, Database, DatabaseUnavailableError
from lapse.store import migrate
from tests.chaos.backlog import insert_backlog
from tests.chaos.checks import check_all, check_recovery, check_retries, wait_until_finished
from tests.chaos.disks import read_only, small_disk
from tests.chaos.fleet import recovery_seconds, running_fleet
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.support.backlog import BUSINESS, customer
from tests.support.commands import error_line, run_lapse
from tests.support.postgres import Server

SECONDS = scaled(small=2, full=40)
BACKLOG = scaled(small=200, full=5_000)
IDLE_SECONDS = 1
SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"


@pytest.mark.parametrize("sessions", ["ended", "kept"])
def test_a_database_that_only_reads_is_waited_for(
    chaos_url: str, chance: random.Random, outcome: Outcome, sessions: str
) -> None:
    """With its sessions kept, a worker must see by itself that a new session could write again."""
    url = make_url(chaos_url)
    name = url.database
    server = Server("admin", url.set(database="postgres").render_as_string(hide_password=False))
    with closing(Database(chaos_url)) as database, running_fleet(chaos_url, chaos_url) as fleet:
        insert_backlog(database, BACKLOG, IDLE_SECONDS, coming_seconds=SECONDS + chance.uniform(2, 4))
        for worker in fleet.running:
            worker.wait_for("worker started")
        server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        server.execute(SESSIONS.format(name=name))
        begin = time.monotonic()
        if sessions == "ended":
            check_that_a_caller_is_told(chaos_url)
        time.sleep(max(0, begin + SECONDS - time.monotonic()))
        server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        if sessions == "ended":
            server.execute(SESSIONS.format(name=name))
        writes_again, seconds = datetime.now(UTC), time.monotonic() - begin
        wait_until_finished(database, 60)
        fleet.stop()
        fleet.check_log()
        retries = check_retries(fleet, "read-only", seconds)
        history = check_all(database, [], IDLE_SECONDS)
        outcome.add(
            database,
            read_only_seconds=round(seconds),
            retries=retries,
            events=sum(map(len, history.events.values())),
            longest_recovery_seconds=check_recovery(recovery_seconds([writes_again], history.moments("worker"))),
        )


def check_that_a_caller_is_told(url: str) -> None:
    with closing(ConversationService(url)) as service, pytest.raises(DatabaseUnavailableError, match="read-only"):
        service.record_message(1, customer(0), BUSINESS)


def test_a_worker_says_that_it_may_not_write_to_a_file() -> None:
    with small_disk(8) as disk, closing(Database(f"sqlite:///{disk.folder}/lapse.db")) as database:
        migrate(database)
        database.close()
        with read_only(disk.folder) as folder:
            line = error_line(run_lapse("worker", "--once", "--database-url", f"sqlite:///{folder}/lapse.db"), 1)
    assert line.endswith("does its folder exist, and may you write there?")

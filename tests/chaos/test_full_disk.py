"""The disk is full for a while: that of the tables, of the write-ahead log (the server gives up), of a SQLite file."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import DBAPIError

from lapse import ConversationService, Database, DatabaseUnavailableError
from lapse.store import migrate
from tests.chaos.backlog import insert_backlog
from tests.chaos.checks import check_all, check_recovery, check_retries, wait_until_finished
from tests.chaos.conftest import migrated, own_server, wait_for_server
from tests.chaos.disks import SmallDisk, small_disk
from tests.chaos.fleet import RECOVERY_SECONDS, recovery_seconds, running_fleet
from tests.chaos.outcome import Outcome
from tests.chaos.scale import is_full, scaled
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.postgres import Server
from tests.support.postgres_process import ServerProcess, give_to_server_user

SECONDS = scaled(small=2, full=40)
BACKLOG = 2_000
IDLE_SECONDS = 1
FIRST_NEW_CUSTOMER = 500_000


@dataclass
class Place:
    """A database on a small disk, and its server if it has one."""

    url: str
    disk: SmallDisk
    error: str
    process: ServerProcess | None = None

    def bring_back(self) -> datetime:
        """Give the room back, start the server again if it gave up, and return when that was done."""
        self.disk.free()
        if self.process is not None:
            wait_for_server(self.process, RECOVERY_SECONDS)
        return datetime.now(UTC)


@contextmanager
def sqlite_file() -> Iterator[Place]:
    with small_disk(16) as disk:
        url = f"sqlite:///{disk.folder}/lapse.db"
        with closing(Database(url)) as database:
            migrate(database)
        yield Place(url, disk, "full")


@contextmanager
def tablespace() -> Iterator[Place]:
    with small_disk(48) as disk, own_server() as process:
        tables = disk.folder / "tables"
        tables.mkdir()
        give_to_server_user(tables)
        own = Server("own", process.admin_url)
        own.execute(f"CREATE TABLESPACE small LOCATION '{tables}'")
        url = migrated(process)
        own.execute("ALTER DATABASE lapse SET TABLESPACE small")
        yield Place(url, disk, "No space left on device", process)


@contextmanager
def write_ahead_log() -> Iterator[Place]:
    with small_disk(64) as disk:
        folder = disk.folder / "wal"
        folder.mkdir()
        with own_server({"max_wal_size": "16MB", "min_wal_size": "2MB"}, folder) as process:
            yield Place(migrated(process), disk, "", process)


PLACES = {"sqlite": sqlite_file, "tables": tablespace, "write-ahead log": write_ahead_log}


@pytest.mark.parametrize("disk_of", PLACES)
def test_a_full_disk_is_waited_for(disk_of: str, chance: random.Random, outcome: Outcome) -> None:
    with PLACES[disk_of]() as place, closing(Database(place.url)) as database, running_fleet(place.url) as fleet:
        fleet.running[0].wait_for("worker started")
        insert_backlog(database, BACKLOG, IDLE_SECONDS, coming_seconds=SECONDS + chance.uniform(1, 2))
        place.disk.fill()
        begin = time.monotonic()
        written = write_until_refused(database)
        if is_full() or disk_of == "tables":
            check_that_a_caller_is_told(place.url)
        time.sleep(max(0, begin + SECONDS - time.monotonic()))
        seconds, writes_again = time.monotonic() - begin, place.bring_back()
        settled = wait_until_finished(database, 60)
        fleet.stop()
        fleet.check_log()
        history = check_all(database, [], IDLE_SECONDS)
        crashes = place.process.log.count("PANIC") if place.process else 0
        assert bool(crashes) == (disk_of == "write-ahead log")
        outcome.add(
            database,
            full_seconds=round(seconds),
            retries=check_retries(fleet, place.error, seconds) if place.error else len(fleet.complaints()),
            crashes_of_the_server=crashes,
            written_before_the_first_refusal=written,
            events=sum(map(len, history.events.values())),
            longest_recovery_seconds=check_recovery(recovery_seconds([writes_again], history.moments("worker"))),
            settled_seconds=round(settled, 1),
        )


def write_until_refused(database: Database) -> int:
    """Write, as another program would, until the database refuses; return how many conversations went well."""
    for number in range(0, 1_000_000, 10):
        numbers = range(FIRST_NEW_CUSTOMER + number, FIRST_NEW_CUSTOMER + number + 10)
        try:
            insert_conversations(database, numbers)
        except DBAPIError:
            return number
    raise AssertionError("the disk is not full")


def check_that_a_caller_is_told(url: str) -> None:
    def write() -> None:
        # There may be room for a few more.
        for number in range(1_000):
            service.record_message(1, BUSINESS, customer(FIRST_NEW_CUSTOMER - number), "sms")

    with closing(ConversationService(url)) as service, pytest.raises(DatabaseUnavailableError) as told:
        write()
    assert len(str(told.value).splitlines()) == 1

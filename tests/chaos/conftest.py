"""What the faults share: their chance, their outcome, and a server that may be harmed."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from lapse import Database
from lapse.store import migrate
from tests.chaos import scale
from tests.chaos.outcome import Outcome
from tests.conftest import SERVERS, NewDatabase
from tests.support.postgres import Server
from tests.support.postgres_process import NoServerError, ServerProcess, running_server

DURABLE = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "timezone": "America/Sao_Paulo",
}
"""PostgreSQL's own defaults where it matters: it waits for the disk, as in production."""


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Return what is random in this test."""
    sys.stdout.write(f"{scale.described()}\n")
    return scale.chance_of(request.node.name)


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Iterator[Outcome]:
    """Collect the outcome of a fault; a full run that has passed is appended to the results."""
    parameters = getattr(request.node, "callspec", None)
    fault, begin = request.node.module.__name__.rpartition("test_")[2], time.monotonic()
    found = Outcome(fault, parameters.id if parameters else "")
    yield found
    sys.stdout.write(f"{found.fault} {found.case}: {found.counts}\n")
    if scale.is_full() and request.node.stash.get(PASSED, False):
        found.append(time.monotonic() - begin)


@pytest.fixture(scope="module")
def outcome_of_all(request: pytest.FixtureRequest) -> Iterator[Outcome]:
    """Collect one outcome of all tests of a module; a full run that has passed is appended to the results."""
    begin, failed_before = time.monotonic(), request.session.testsfailed
    found = Outcome(request.module.__name__.rpartition("test_")[2])
    yield found
    sys.stdout.write(f"{found.fault}: {found.counts}\n")
    if scale.is_full() and request.session.testsfailed == failed_before:
        found.append(time.monotonic() - begin)


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = call.excinfo is None
    return report


@contextmanager
def own_server(settings: Mapping[str, str] | None = None, wal_folder: Path | None = None) -> Iterator[ServerProcess]:
    """Run a server for one test, which may harm it; where there are no programs for one, the test is skipped."""
    with ExitStack() as stack:
        try:
            process = stack.enter_context(running_server({**DURABLE, **(settings or {})}, wal_folder=wal_folder))
        except NoServerError as error:
            pytest.skip(str(error))
        yield process


@pytest.fixture
def durable_server() -> Iterator[ServerProcess]:
    """Return a server of this test's own."""
    with own_server() as process:
        yield process


def wait_for_server(process: ServerProcess, seconds: float) -> None:
    """Wait until the server answers again, and start it if it gave up."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(psycopg.OperationalError):
            Server("own", process.admin_url).execute("SELECT 1")
            return
        assert time.monotonic() < deadline, process.log[-2_000:]
        time.sleep(0.05)
        if not process.is_running:
            process.start()


def empty_database_on(process: ServerProcess) -> str:
    """Make a database without any table on this server, and return its URL."""
    return Server("own", process.admin_url).create_database("lapse")


def migrated(process: ServerProcess) -> str:
    """Make a database with lapse's schema on this server, and return its URL."""
    url = empty_database_on(process)
    with closing(Database(url)) as database:
        migrate(database)
    return url


@pytest.fixture
def chaos_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """Return a database of PostgreSQL: in a full run on a server that waits for the disk, else on a shared one."""
    if scale.is_full():
        return migrated(request.getfixturevalue("durable_server"))
    return new_database(next(iter(request.config.stash[SERVERS].by_name)))


@pytest.fixture
def empty_chaos_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """Return a database without any table, else as `chaos_url`."""
    if scale.is_full():
        return empty_database_on(request.getfixturevalue("durable_server"))
    return new_database(next(iter(request.config.stash[SERVERS].by_name)), migrated=False)

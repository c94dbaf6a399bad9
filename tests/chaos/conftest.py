"""What the faults share: their chance, their outcome, and a server that may be harmed."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from lapse import Database
from lapse.store import migrate
from tests.chaos import scale
from tests.chaos.outcome import Outcome
from tests.conftest import SERVERS, NewDatabase
from tests.postgres import NoServerError, Server, ServerProcess, running_server

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
    found, begin = Outcome(request.node.module.__name__.rpartition("test_")[2]), time.monotonic()
    yield found
    sys.stdout.write(f"{found.fault}: {found.counts}\n")
    if scale.is_full() and request.node.stash.get(PASSED, False):
        found.append(time.monotonic() - begin)


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = call.excinfo is None
    return report


@pytest.fixture
def durable_server() -> Iterator[ServerProcess]:
    """Return a server of this test's own, which may be killed."""
    try:
        with running_server(DURABLE) as process:
            yield process
    except NoServerError as error:
        pytest.skip(str(error))


def migrated(process: ServerProcess) -> str:
    """Make a database with lapse's schema on this server, and return its URL."""
    url = Server("own", process.admin_url).create_database("lapse")
    with closing(Database(url)) as database:
        migrate(database)
    return url


@pytest.fixture
def chaos_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """Return a database of PostgreSQL: in a full run on a server that waits for the disk, else on a shared one."""
    if scale.is_full():
        return migrated(request.getfixturevalue("durable_server"))
    return new_database(next(iter(request.config.stash[SERVERS].by_name)))

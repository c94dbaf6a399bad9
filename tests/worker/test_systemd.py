"""A service of `Type=notify`: what the worker tells systemd, read at the socket that systemd would read."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lapse.systemd import Systemd
from tests.support.commands import running_lapse
from tests.support.proxy import Proxy


class Manager:
    """The socket of a service manager."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self.name = name

    def next(self, timeout: float = 20) -> list[str]:
        """Return the lines of the next message."""
        self._socket.settimeout(timeout)
        return self._socket.recv(4_096).decode().splitlines()

    def until(self, line: str) -> list[list[str]]:
        """Return the messages up to one that holds this line."""
        messages = [self.next()]
        while line not in messages[-1]:
            messages.append(self.next())
        return messages

    def drain(self) -> None:
        """Take what has come."""
        with suppress(TimeoutError):
            while True:
                self.next(0.001)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def manager(name: str) -> Iterator[Manager]:
    opened = Manager(name)
    yield opened
    opened.close()


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_worker_says_that_it_started_how_it_is_and_that_it_stops(is_abstract: bool, database_url: str) -> None:
    name = f"@lapse-test-{os.getpid()}" if is_abstract else "notify.sock"
    with manager(name) as listening:
        env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000", "DATABASE_URL": database_url}
        with running_lapse("worker", env=env) as worker:
            before = listening.until("READY=1")
            assert before[-1] == ["READY=1", "STATUS=healthy, cycle 0, 0 ended"]
            assert all(message == ["WATCHDOG=1"] for message in before[:-1])
            listening.until("STATUS=healthy, cycle 1, 0 ended")
            begin = time.monotonic()
            for _ in range(5):
                listening.until("WATCHDOG=1")
            assert 0.5 < time.monotonic() - begin < 5, "twice in the watchdog's time"
            worker.stop(signal.SIGTERM)
            assert listening.until("STOPPING=1")[-1] == ["STOPPING=1", "STATUS=stopping"]
            assert (worker.process.returncode, worker.stderr) == (0, "")


def test_a_worker_that_waits_for_its_database_says_so(postgres_url: str) -> None:
    proxy = Proxy(postgres_url)
    try:
        with manager("notify.sock") as listening:
            env = {"NOTIFY_SOCKET": "notify.sock", "DATABASE_URL": proxy.url}
            with running_lapse("worker", env=env):
                ready, status = listening.next()
                assert ready == "READY=1"
                assert status.startswith("STATUS=waiting for the database: the database is not available")
                proxy.open()
                while not listening.next()[-1].startswith("STATUS=degraded, cycle 0"):
                    pass
    finally:
        proxy.close()


def test_a_manager_that_does_not_read_holds_up_nothing(database_url: str) -> None:
    with manager("notify.sock") as listening:
        env = {"NOTIFY_SOCKET": "notify.sock", "WATCHDOG_USEC": "20000", "DATABASE_URL": database_url}
        with running_lapse("worker", "--interval", "0.05", "--min-wait", "0", env=env) as worker:
            worker.wait_for("metrics", cycle=20)  # its queue holds some ten messages
            assert worker.stop(signal.SIGTERM) < 1
            assert (worker.process.returncode, worker.stderr) == (0, "")
        assert listening.next()[0] in ("READY=1", "WATCHDOG=1")


def test_that_it_started_is_said_again_where_nobody_took_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "notify.sock")
    systemd = Systemd()
    systemd.report("healthy")
    with manager("notify.sock") as listening:
        for expected in (["READY=1", "STATUS=healthy"], ["STATUS=healthy"]):
            systemd.report("healthy")
            assert listening.next() == expected


def test_a_worker_with_a_wrong_schema_never_says_that_it_started(empty_postgres_url: str) -> None:
    with manager("notify.sock") as listening:
        env = {"NOTIFY_SOCKET": "notify.sock", "DATABASE_URL": empty_postgres_url}
        with running_lapse("worker", env=env) as worker:
            assert listening.next() == ["STOPPING=1", "STATUS=stopping"]
            assert worker.process.wait(20) == 1


def test_the_watchdog_is_fed_only_while_the_loop_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "notify.sock")
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    is_alive = threading.Event()
    is_alive.set()
    with manager("notify.sock") as listening:
        Systemd().feed_watchdog(is_alive.is_set)
        assert listening.next() == ["WATCHDOG=1"]
        is_alive.clear()
        time.sleep(0.1)
        listening.drain()
        with pytest.raises(TimeoutError):
            listening.next(0.5)


@pytest.mark.parametrize("env", [{"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}])
def test_another_processes_watchdog_is_not_fed(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "notify.sock")
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    with manager("notify.sock") as listening:
        Systemd().feed_watchdog(lambda: True)
        with pytest.raises(TimeoutError):
            listening.next(0.3)


def test_without_systemd_nothing_is_said_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    Systemd().report("healthy")
    monkeypatch.setenv("NOTIFY_SOCKET", str(Path("nobody.sock").absolute()))
    Systemd().report("healthy")

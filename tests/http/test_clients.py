"""Clients of the worker's HTTP server that mean no good, or know no better."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from lapse.http import WorkerApp, server, serving
from tests.support.http_client import request
from tests.support.waiting import until
from tests.support.workers import worker_on

FAST_SECONDS = 1.0


@pytest.fixture
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of a server whose worker never began."""
    with worker_on("sqlite:///lapse.db") as worker, serving(WorkerApp(worker), "127.0.0.1:0") as (_, port):
        yield port


def answers(port: int, sent: bytes, timeout: float = 5) -> bytes:
    """Send bytes and return all that comes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_connections_that_say_nothing_hold_nobody_up(port: int) -> None:
    with ExitStack() as silent:
        for _ in range(50):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        begin = time.monotonic()
        assert request(port, "/livez").status == 200
        assert time.monotonic() - begin < FAST_SECONDS


def test_connections_that_say_little_but_say_it_for_ever_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(server, "CONNECTION_TIMEOUT_SECONDS", 1)
    over = threading.Event()
    with (
        worker_on("sqlite:///lapse.db") as worker,
        serving(WorkerApp(worker), "127.0.0.1:0") as (_, port),
        ExitStack() as clients,
    ):
        slow = [clients.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(25)]

        def drip() -> None:
            for client in slow:
                client.sendall(b"GET /livez HTTP/1.1\r\nX: ")
            while not over.wait(0.1):
                for client in slow:
                    with suppress(OSError):
                        client.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert request(port, "/livez", timeout=5).status == 200
        finally:
            over.set()
            dripping.join()


@pytest.mark.parametrize("asked", [b"", b"GET /livez HTTP/1.1\r\nX:", b"GET /large HTTP/1.1\r\n\r\n"])
def test_who_does_not_ask_or_does_not_read_is_closed_in_time(asked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTION_TIMEOUT_SECONDS", 1)

    def large(_environment: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 8_000_000]  # more than the kernel keeps for a client

    with serving(large, "127.0.0.1:0") as (_, port):
        before = open_files()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(asked)
            until(lambda: open_files() > before + 1)  # a large answer is in a file of its own
            until(lambda: open_files() == before + 1, seconds=10)


def test_a_low_limit_of_open_files_is_not_reached(port: int) -> None:
    before = open_files()
    with ExitStack() as silent:
        for _ in range(300):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        time.sleep(0.5)
        assert open_files() - before - 300 <= 100, "both ends are in this process"


def test_of_many_requests_at_once_on_a_connection_one_is_answered(port: int) -> None:
    assert answers(port, b"GET /livez HTTP/1.1\r\n\r\n" * 300).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health"])
def test_who_asks_for_the_head_alone_gets_no_body(port: int, path: str) -> None:
    head, _, body = answers(port, f"HEAD {path} HTTP/1.1\r\n\r\n".encode()).partition(b"\r\n\r\n")
    assert (b"Content-Length: " in head, body) == (True, b"")


@pytest.mark.parametrize(
    "accept", ["text/plain; version=1.x.0", "application/openmetrics-text;version=x", ";;=,q=\xff"]
)
def test_a_wish_for_a_form_that_is_none_gets_the_usual_one(port: int, accept: str) -> None:
    answer = answers(port, b"GET /metrics HTTP/1.1\r\nAccept: " + accept.encode("latin-1") + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"lapse_worker_info" in answer

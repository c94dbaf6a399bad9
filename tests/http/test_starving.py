"""Clients that would take everything: the probes are answered as the Kubernetes manifest asks them, whatever comes."""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from lapse.http import server
from tests.support.commands import LAPSE, RunningLapse, running_lapse
from tests.support.http_client import request, samples
from tests.support.manifests import FOLDER
from tests.support.waiting import until

MANY = 300
LIVENESS: dict[str, Any] = yaml.safe_load((FOLDER / "base/worker.yaml").read_text())["spec"]["template"]["spec"][
    "containers"
][0]["livenessProbe"]
PROMPT_SECONDS = LIVENESS["timeoutSeconds"] / 2
"""Half of what Kubernetes grants an answer: the machine of a test may be slow."""
RECOVERY_SECONDS = 2.0


@contextmanager
def serving_lapse(folder: Path, command: Sequence[str] = LAPSE) -> Iterator[tuple[RunningLapse, int]]:
    """Run a worker that is ready; at its end it must not have complained."""
    url = f"sqlite:///{folder}/lapse.db"
    with running_lapse("worker", "--http", "127.0.0.1:0", "--database-url", url, command=command) as worker:
        port = worker.wait_for("http server listening")["port"]
        until(lambda: request(port, "/readyz").status == 200)
        yield worker, port
        worker.stop(signal.SIGTERM)
        assert ([line for line in worker.log if line["level"] != "info"], worker.stderr) == ([], "")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningLapse, int]]:
    """Return a worker that has to stand all of the tests here."""
    with serving_lapse(tmp_path_factory.mktemp("worker")) as found:
        yield found


def check_probes(port: int, paths: tuple[str, ...] = ("/livez", "/readyz")) -> None:
    """Ask as often as it takes until a worker is restarted, at once after each other."""
    for _ in range(LIVENESS["failureThreshold"]):
        for path in paths:
            begin = time.monotonic()
            assert request(port, path, timeout=PROMPT_SECONDS).status == 200
            assert time.monotonic() - begin < PROMPT_SECONDS


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(5)
    client.connect(("127.0.0.1", port))
    return client


ONE_SIDED = {
    "says nothing": b"",
    "a byte": b"G",
    "half a line": b"GET /liv",
    "half a head": b"GET /livez HTTP/1.1\r\nHost: x\r\n",
    "half a body": b"POST /livez HTTP/1.1\r\nContent-Length: 100\r\n\r\nx",
    "waits for a sign to go on": b"POST /livez HTTP/1.1\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n",
    "half a chunk": b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nx",
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01",
    "reads no answer": b"GET /metrics HTTP/1.1\r\n\r\n",
    "asks for very much, reads nothing": b"GET /metrics HTTP/1.1\r\n\r\n" * 300,
}


@pytest.mark.parametrize("said", ONE_SIDED.values(), ids=ONE_SIDED)
def test_whatever_clients_leave_half_done_the_probes_are_answered(
    running: tuple[RunningLapse, int], said: bytes
) -> None:
    _, port = running
    with ExitStack() as clients:
        for _ in range(MANY):
            client = clients.enter_context(connect(port, receive_buffer=1))
            with suppress(OSError):  # it may be closed already
                client.sendall(said)
        check_probes(port)
        assert samples(port)["process_open_fds", None] < server.MAX_CONNECTIONS + 50
    check_probes(port)


@contextmanager
def in_threads(work: Callable[[], None], number: int) -> Iterator[None]:
    """Repeat this all the time, in so many threads."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            with suppress(OSError):
                work()

    threads = [threading.Thread(target=repeat) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_byte_after_byte_is_no_request(running: tuple[RunningLapse, int]) -> None:
    _, port = running
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(MANY)]

        def drip() -> None:
            for client in clients:
                with suppress(OSError):
                    client.sendall(b"x")

        with in_threads(drip, 1):
            check_probes(port)


def test_clients_that_come_and_reset_are_no_matter(running: tuple[RunningLapse, int]) -> None:
    worker, port = running

    def reset() -> None:
        with connect(port) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")

    with in_threads(reset, 4):
        time.sleep(0.2)
        check_probes(port)
    before = samples(port)["process_resident_memory_bytes", None]
    with in_threads(reset, 4):
        time.sleep(0.5)
        check_probes(port)
    assert samples(port)["process_resident_memory_bytes", None] < before + 20e6
    assert worker.process.poll() is None


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "//readyz", "/none"])
def test_a_crowd_that_asks_all_the_time_holds_no_probe_up(running: tuple[RunningLapse, int], path: str) -> None:
    _, port = running
    crowd: list[socket.socket] = []

    def ask_without_reading() -> None:
        client = connect(port)
        client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        crowd.append(client)
        if len(crowd) > MANY:
            crowd.pop(0).close()

    try:
        with in_threads(ask_without_reading, 2):
            time.sleep(0.2)
            check_probes(port, ("/livez",))
    finally:
        for client in crowd:
            client.close()


@contextmanager
def at_most_open(worker: RunningLapse, number: int) -> Iterator[None]:
    """Limit how many files the worker may have open."""
    pid = worker.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


WITH_FEW_FILES = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
runpy.run_module("lapse", run_name="__main__", alter_sys=True)
"""


def test_probes_are_answered_where_few_files_may_be_open(tmp_path: Path) -> None:
    with serving_lapse(tmp_path, command=[sys.executable, "-c", WITH_FEW_FILES]) as (_, port), ExitStack() as clients:
        for _ in range(MANY):
            clients.enter_context(connect(port))
        check_probes(port)


def test_a_server_without_a_file_left_takes_one_from_an_idle_connection(running: tuple[RunningLapse, int]) -> None:
    worker, port = running
    with ExitStack() as clients:
        for _ in range(20):
            clients.enter_context(connect(port))
        check_probes(port)
        used = len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))
        with at_most_open(worker, used):
            for _ in range(MANY):
                clients.enter_context(connect(port))
            check_probes(port)


def test_a_server_without_a_file_left_at_all_does_not_spin_and_recovers(running: tuple[RunningLapse, int]) -> None:
    worker, port = running

    def seconds_of_cpu() -> float:
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    with at_most_open(worker, 3), connect(port):
        before = seconds_of_cpu()
        time.sleep(1)
        assert seconds_of_cpu() - before < 0.5
    begin = time.monotonic()
    check_probes(port)
    assert time.monotonic() - begin < RECOVERY_SECONDS

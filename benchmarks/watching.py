"""A worker as those see it who look after it: its HTTP server, and what the kernel says of its process."""

from __future__ import annotations

import http.client
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.background import Background, Work
from benchmarks.processes import NOW, Process, ProcessError, running_worker

LISTEN = "127.0.0.1:0"
PROMETHEUS = {"/metrics": 15.0}
"""Path and seconds: Prometheus asks so often by default in its own examples."""
PROBES = {"/livez": 10.0, "/readyz": 10.0}
"""Kubernetes asks so often by default."""


@contextmanager
def watched_worker(*arguments: str, url: str, source: Path = NOW) -> Iterator[tuple[Process, int]]:
    """Run `lapse worker` with its HTTP server, and yield it with its port once it has begun."""
    with running_worker(f"--http={LISTEN}", *arguments, url=url, source=source) as worker:
        port: int = worker.hear_event("http server listening")["port"]
        worker.hear_event("worker started")
        yield worker, port


def ask(port: int, path: str) -> str:
    """Return what the worker answers, on a connection for this question alone.

    Raises:
        ProcessError: it is not well.
    """
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
    if response.status != http.HTTPStatus.OK:
        raise ProcessError(f"{path} answered {response.status}: {text}")
    return text


def watching(port: int, paths: Mapping[str, float], asked: Counter[str]) -> Background:
    """Ask for each path every so many seconds while it is entered, on a new connection each time; count the answers.

    The first time is after half of the seconds.
    """

    def asker(path: str, every: float) -> Work:
        def work(over: threading.Event) -> None:
            at = time.monotonic() + every / 2
            while not over.wait(max(at - time.monotonic(), 0)):
                ask(port, path)
                asked[path] += 1
                at += every

        return work

    return Background(*(asker(path, every) for path, every in paths.items()))


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process since its start: user and system, all threads, also those that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, with what it shares with others.

    Counted page by page: the kernel's own running count, in `status` and `statm`, may be some hundred KiB behind.
    """
    return _kib(rf"/proc/{pid}/smaps_rollup", "Rss") / 1024


def highest_resident_mib(pid: int) -> float:
    """Return the most that its resident memory ever was, by the kernel's count."""
    return _kib(f"/proc/{pid}/status", "VmHWM") / 1024


def _kib(path: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ProcessError(f"there is no {name} in {path}")
    return int(found[1])

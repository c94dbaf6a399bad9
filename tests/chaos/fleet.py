"""Workers as processes: a fleet that is killed, stopped and replaced, and whose every log line is kept."""

from __future__ import annotations

import signal
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

from tests.support.commands import RunningLapse, running_lapse

RECOVERY_SECONDS = 10
"""So long after a fault, workers work again."""
PATIENCE_SECONDS = 60
# What a worker says when something did not work.
COMPLAINTS = (
    "task failed",
    "batch timed out",
    "conversation refused",
    "waiting for the database",
    "next deadlines unknown",
)


class Fleet:
    """Running workers of one database."""

    def __init__(self, urls: Sequence[str], arguments: Sequence[str], env: Mapping[str, str]) -> None:
        self._urls, self._arguments, self._env = urls, arguments, env
        self._stacks = [ExitStack() for _ in urls]
        self.ended: list[RunningLapse] = []
        self.running = [self._start(place) for place in range(len(urls))]

    def kill(self, places: Iterable[int]) -> None:
        """Kill these workers and start others in their places."""
        for place in places:
            self.running[place].process.kill()
            self._end(place, signal.SIGKILL)
            self.running[place] = self._start(place)

    def wait_until_working(self) -> None:
        """Wait until one of the running ones has done something."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(line["event"] == "task processed" for worker in self.running for line in worker.lines()):
            assert time.monotonic() < deadline, self.log()[-5:]
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop them as an operator does; each must end well."""
        for worker in self.running:
            worker.process.terminate()
        for place, worker in enumerate(self.running):
            self._end(place, signal.SIGTERM)
            # Told to stop before it can listen, it ends by the signal itself.
            assert worker.process.returncode in (0, -signal.SIGTERM), worker.stderr
        self.running = []

    def close(self) -> None:
        """Kill what still runs."""
        for stack in self._stacks:
            stack.close()

    def log(self) -> list[dict[str, Any]]:
        """Return the log lines of all workers, those of the past included."""
        return [line for worker in [*self.ended, *self.running] for line in worker.lines()]

    def complaints(self) -> list[dict[str, Any]]:
        """Return the log lines about what did not work."""
        return [line for line in self.log() if line["event"] in COMPLAINTS]

    def check_log(self) -> None:
        """Fail where a worker said anything beside its log, or logged a failure without saying what it was."""
        for worker in [*self.ended, *self.running]:
            assert worker.stderr == "", worker.stderr
        for line in self.log():
            is_failure = line["event"] in COMPLAINTS
            assert is_failure == (line["level"] in ("warning", "error")), line
            assert not is_failure or line["error"], line

    def retries(self, error: str) -> int:
        """Return how often a task failed for this reason, the one of the worker that tried most often."""
        tries = Counter(
            (worker.process.pid, line["task"])
            for worker in [*self.ended, *self.running]
            for line in worker.lines()
            if line["event"] == "task failed" and error in line["error"]
        )
        return max(tries.values(), default=0)

    def _start(self, place: int) -> RunningLapse:
        arguments = ["worker", "--database-url", self._urls[place], *self._arguments]
        return self._stacks[place].enter_context(running_lapse(*arguments, env=self._env))

    def _end(self, place: int, number: int) -> None:
        self.running[place].stop(number, timeout=60)
        self.ended.append(self.running[place])
        # The file of its errors is looked at later.


@contextmanager
def running_fleet(
    *urls: str,
    idle_seconds: int = 1,
    batch_size: int | None = None,
    interval: float = 2,
    env: Mapping[str, str] | None = None,
) -> Iterator[Fleet]:
    """Start a worker for each URL; without a size of batches they take their own."""
    arguments = ["--interval", str(interval), *(["--batch-size", str(batch_size)] if batch_size else [])]
    idle = {"CONVERSATION_IDLE_TIMEOUT_MINUTES": str(idle_seconds / 60)}
    fleet = Fleet(urls, arguments, {**idle, **(env or {})})
    try:
        yield fleet
    finally:
        fleet.close()


def recovery_seconds(faults: Sequence[datetime], worked: Sequence[datetime]) -> list[float]:
    """Return how long after each fault a worker first worked; `worked` is in order.

    A fault after which nobody worked took for ever.
    """
    found = []
    for fault in faults:
        place = bisect_right(worked, fault)
        found.append((worked[place] - fault).total_seconds() if place < len(worked) else float("inf"))
    return found

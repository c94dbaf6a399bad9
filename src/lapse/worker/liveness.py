"""The heartbeat of the worker's loop, for liveness probes and watchdogs; the database has no part in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lapse.shutdown import StopEvent

TOLERANCE = 3
"""The loop counts as stuck when a step takes so many times its expected time."""
STEP_SECONDS = 10.0
"""The expected time of a step between two waits: milliseconds, unless the machine is starved."""


@dataclass(frozen=True, slots=True)
class _Step:
    what: str
    began_at: float
    should_take_seconds: float | None
    """None during a query: however long it takes, a restart of the worker would not help."""


class Heartbeat:
    """The latest step of a loop. Written by the loop, read by any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with the start."""
        self._clock = clock
        # One object, replaced as a whole: no reader sees half a step.
        self._step = _Step("starting", clock(), 0.0)

    def beat(self, what: str, should_take_seconds: float = 0.0) -> None:
        """Record that a step begins, and its expected time where that is more than `STEP_SECONDS`."""
        self._step = _Step(what, self._clock(), should_take_seconds)

    @contextmanager
    def asking_database(self) -> Iterator[None]:
        """Allow the query inside to take any time."""
        self._step = _Step("asking the database", self._clock(), None)
        try:
            yield
        finally:
            self.beat("working")

    def wait(self, seconds: float, stop_event: StopEvent) -> None:
        """Wait so many seconds, or until a stop."""
        if seconds > 0:
            self.beat("waiting", seconds)
            stop_event.wait(seconds)
            self.beat("working")

    @property
    def is_alive(self) -> bool:
        """Return whether the loop is running, and not stuck."""
        step = self._step
        allowed = step.should_take_seconds
        return allowed is None or self._clock() - step.began_at <= TOLERANCE * max(allowed, STEP_SECONDS)

    def description(self) -> str:
        """Return what the loop is doing and for how long, for people."""
        step = self._step
        return f"{step.what} for {self._clock() - step.began_at:.1f} seconds"

"""Backing off after failures."""

from __future__ import annotations

import random
import time
from collections.abc import Callable


class Backoff:
    """A pause that doubles with each failure in a row, up to a limit; in seconds."""

    def __init__(self, first: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without a failure."""
        self._clock = clock
        self._first, self._most = first, most
        self._failures = 0
        self._over_at = 0.0

    def record_failure(self) -> float:
        """Count a failure and return the pause before the next try.

        Jittered between half and whole, so that a fleet does not come back all at once.
        """
        pause = min(self._first * 2.0**self._failures, self._most)
        self._failures += pause < self._most
        seconds = pause * random.uniform(0.5, 1)  # noqa: S311 - nothing secret
        self._over_at = self._clock() + seconds
        return seconds

    def reset(self) -> None:
        """Forget the failures."""
        self._failures, self._over_at = 0, 0.0

    @property
    def remaining(self) -> float:
        """Return what is left of the pause; 0 when it is over."""
        return max(self._over_at - self._clock(), 0.0)

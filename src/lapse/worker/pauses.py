"""Pauses: after failures, and between batches for the sake of a shared database."""

from __future__ import annotations

import random
import time


class Backoff:
    """A pause that doubles with each failure in a row, up to a limit; in seconds."""

    def __init__(self, first: float, most: float) -> None:
        """Begin without a failure."""
        self._first, self._most = first, most
        self._failures = 0
        self._over_at = 0.0

    def failed(self) -> float:
        """Note a failure and return the pause before the next try.

        Jittered between half and whole, so that a fleet does not come back all at once.
        """
        pause = min(self._first * 2.0**self._failures, self._most)
        self._failures += pause < self._most
        seconds = pause * random.uniform(0.5, 1)  # noqa: S311 - nothing secret
        self._over_at = time.monotonic() + seconds
        return seconds

    def succeeded(self) -> None:
        """Forget the failures."""
        self._failures, self._over_at = 0, 0.0

    @property
    def seconds_left(self) -> float:
        """Return what is left of the pause; 0 when it is over."""
        return max(self._over_at - time.monotonic(), 0.0)


class RateLimit:
    """Conversations a second that a worker may sweep, in all its tasks together."""

    SMOOTHNESS_SECONDS = 0.25
    """A batch takes no more than may be swept in this time, so that load comes evenly."""

    def __init__(self, per_second: float | None = None) -> None:
        """Allow `per_second` conversations a second; None allows any number."""
        self._per_second = per_second
        self._free_at = 0.0

    def cap(self, limit: int) -> int:
        """Return how many of `limit` conversations a batch may take."""
        if self._per_second is None:
            return limit
        return max(min(limit, int(self._per_second * self.SMOOTHNESS_SECONDS)), 1)

    def pause_after(self, conversations: int, began_at: float) -> float:
        """Return the seconds to pause after a batch of so many that began then, by `time.monotonic`."""
        if self._per_second is None:
            return 0.0
        self._free_at = max(self._free_at, began_at) + conversations / self._per_second
        return max(self._free_at - time.monotonic(), 0.0)

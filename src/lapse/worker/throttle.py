"""Batch size and rate limit, by which a worker leaves a shared database to others."""

from __future__ import annotations

import time

TARGET_SECONDS = 0.1
"""A batch's time: a message waits this long at most for a row that a sweep has locked."""
FIRST_SIZE = 100
MIN_SIZE, MAX_SIZE = 10, 5_000
"""Below, a transaction costs more than its rows; above, a lost batch and the memory of a statement cost too much."""
MAX_STEP = 2.0
RECOVERY_STEP = 1.1
"""How fast a fixed size comes back after a statement time-out."""


class AdaptiveBatchSize:
    """A size that follows the time that batches took, or a fixed one; a statement time-out shrinks both."""

    def __init__(self, fixed: int | None = None) -> None:
        """Begin with `fixed` conversations, or with a first guess."""
        self._least, self._most = (fixed, fixed) if fixed else (MIN_SIZE, MAX_SIZE)
        self._growth = RECOVERY_STEP if fixed else MAX_STEP
        self.value = fixed or FIRST_SIZE
        """Conversations that the next batch may take."""

    def record(self, claimed: int, seconds: float) -> None:
        """Learn from a batch of `claimed` conversations that took `seconds`."""
        step = min(max(TARGET_SECONDS / max(seconds, 1e-6), 1 / MAX_STEP), self._growth)
        if step > 1 and claimed < self.value:
            return  # it was quick because it had little to do
        # After time-outs it may be below its least: from there it only grows.
        least = min(self._least, max(self.value + 1, round(self.value * self._growth)))
        self.value = min(max(round(self.value * step), least), self._most)

    def on_timeout(self, size: int) -> None:
        """Halve it after the statement time-out of a batch of `size`, which a rate may have made smaller than this."""
        self.value = max(min(size, self.value) // 2, 1)


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

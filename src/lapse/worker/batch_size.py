"""How many conversations a batch takes: what fits into its time."""

from __future__ import annotations

TARGET_SECONDS = 0.1
"""A batch's time: a message waits this long at most for a row that a sweep has locked."""
FIRST = 100
LEAST, MOST = 10, 5_000
"""Below, a transaction costs more than its rows; above, a lost batch and the memory of a statement cost too much."""
LARGEST_STEP = 2.0
RECOVERY_STEP = 1.1
"""How fast a fixed size comes back after a statement time-out."""


class BatchSize:
    """A size that follows the time that batches took, or a fixed one; a statement time-out shrinks both."""

    def __init__(self, fixed: int | None = None) -> None:
        """Begin with `fixed` conversations, or with a first guess."""
        self._least, self._most = (fixed, fixed) if fixed else (LEAST, MOST)
        self._growth = RECOVERY_STEP if fixed else LARGEST_STEP
        self.value = fixed or FIRST
        """Conversations that the next batch may take."""

    def took(self, claimed: int, seconds: float) -> None:
        """Learn from a batch of `claimed` conversations that took `seconds`."""
        step = min(max(TARGET_SECONDS / max(seconds, 1e-6), 1 / LARGEST_STEP), self._growth)
        if step > 1 and claimed < self.value:
            return  # it was quick because it had little to do
        # After time-outs it may be below its least: from there it only grows.
        least = min(self._least, max(self.value + 1, round(self.value * self._growth)))
        self.value = min(max(round(self.value * step), least), self._most)

    def timed_out(self, size: int) -> None:
        """Halve it after the statement time-out of a batch of `size`, which a rate may have made smaller than this."""
        self.value = max(min(size, self.value) // 2, 1)

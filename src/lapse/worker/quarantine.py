"""Conversations that the database refuses to end: found in a batch, left out, and tried again later, alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from lapse.errors import ConversationRefusedError, ConversationUnchangedError, StatementTimeoutError
from lapse.models import AnyId, SweepResult
from lapse.worker.backoff import Backoff

FIRST_BACKOFF_SECONDS = 60.0
MAX_BACKOFF_SECONDS = 60 * 60.0
MAX_QUARANTINED = 10_000
"""So many refused at once are no longer single conversations: something is wrong with the database."""


class Quarantine:
    """The refused conversations of one task, each with a pause that grows. A worker that starts anew knows none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with none."""
        self._clock = clock
        self._backoffs: dict[AnyId, Backoff] = {}

    @property
    def ids(self) -> list[AnyId]:
        """Return all of them."""
        return list(self._backoffs)

    @property
    def ready(self) -> list[AnyId]:
        """Return those whose pause is over."""
        return [conv_id for conv_id, backoff in self._backoffs.items() if not backoff.remaining]

    @property
    def is_full(self) -> bool:
        """Tell whether no more can be quarantined."""
        return len(self._backoffs) >= MAX_QUARANTINED

    @property
    def seconds_to_next(self) -> float:
        """Return when the first of them is ready; infinite when there are none."""
        return min((backoff.remaining for backoff in self._backoffs.values()), default=math.inf)

    def add(self, conv_id: AnyId) -> float:
        """Quarantine a refused conversation (again); returns its pause in seconds."""
        if conv_id not in self._backoffs:
            self._backoffs[conv_id] = Backoff(FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, self._clock)
        return self._backoffs[conv_id].record_failure()

    def release(self, conv_id: AnyId) -> None:
        """Take a conversation back: it has ended, or is not due any more."""
        self._backoffs.pop(conv_id, None)


class BatchBisector:
    """Halves a batch that the database refused, until each conversation to blame is alone; the rest is swept."""

    def __init__(self, sweep_ids: Callable[[Sequence[AnyId]], SweepResult]) -> None:
        """Prepare it; `sweep_ids` sweeps those of some conversations that are due."""
        self._sweep_ids = sweep_ids
        self.last_deadline: datetime | None = None
        """The latest deadline of what was swept."""

    def run(self, ids: Sequence[AnyId], problem: Exception) -> Iterator[tuple[AnyId, Exception] | None]:
        """Go through a batch that met this problem as a whole, in the order of its deadlines.

        Yields:
            After each part: a conversation that was refused, and why; None where the part was swept.
        """
        if len(ids) == 1:
            remaining: Exception | None = problem
            if isinstance(problem, ConversationUnchangedError):
                remaining = self.sweep(ids)  # it may have got a message at that very moment
            yield None if remaining is None else (ids[0], remaining)
            return
        middle = len(ids) // 2
        for half in filter(None, (ids[:middle], ids[middle:])):
            if (remaining := self.sweep(half)) is None:
                yield None
            else:
                yield from self.run(half, remaining)

    def sweep(self, ids: Sequence[AnyId]) -> Exception | None:
        """Sweep some conversations in one batch; return why they were refused, or None."""
        try:
            batch = self._sweep_ids(ids)
        except (ConversationRefusedError, StatementTimeoutError) as error:
            return error
        self.last_deadline = batch.last_deadline or self.last_deadline
        return ConversationUnchangedError() if batch.changed_nothing else None

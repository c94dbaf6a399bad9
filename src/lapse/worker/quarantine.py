"""Conversations that the database refuses to end: left out, and tried again later, alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from lapse.models import AnyId
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

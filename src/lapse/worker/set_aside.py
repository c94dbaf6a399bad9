"""Conversations set aside: the database refused to end them, so they are left out and tried again later, alone."""

from __future__ import annotations

import math

from lapse.models import AnyId
from lapse.worker.pauses import Backoff

FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 60 * 60.0
MOST = 10_000
"""So many refused at once are no longer single conversations: something is wrong with the database."""


class SetAside:
    """The refused conversations of one task, each with a pause that grows. A worker that starts anew knows none."""

    def __init__(self) -> None:
        """Begin with none."""
        self._pauses: dict[AnyId, Backoff] = {}

    @property
    def ids(self) -> list[AnyId]:
        """Return all of them."""
        return list(self._pauses)

    @property
    def ready(self) -> list[AnyId]:
        """Return those whose pause is over."""
        return [conv_id for conv_id, pause in self._pauses.items() if not pause.seconds_left]

    @property
    def is_full(self) -> bool:
        """Tell whether no more can be set aside."""
        return len(self._pauses) >= MOST

    @property
    def seconds_to_next(self) -> float:
        """Return when the first of them is ready; infinite when there are none."""
        return min((pause.seconds_left for pause in self._pauses.values()), default=math.inf)

    def add(self, conv_id: AnyId) -> float:
        """Set a refused conversation aside (again); returns its pause in seconds."""
        return self._pauses.setdefault(conv_id, Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)).failed()

    def forget(self, conv_id: AnyId) -> None:
        """Take a conversation back: it has ended, or is not due any more."""
        self._pauses.pop(conv_id, None)

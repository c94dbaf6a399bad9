"""What to sweep next of a batch that the database refused: the same for a worker, batch by batch, and for one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from lapse.errors import ConversationRefusedError, ConversationUnchangedError, StatementTimeoutError
from lapse.models import AnyId, SweepResult

REFUSALS = (ConversationRefusedError, StatementTimeoutError)
"""What a batch may come to that conversations in it are to blame for."""


class BatchBisector:
    """Halves a batch until each conversation to blame is alone.

    Whoever sweeps goes through the parts, and records what came of each. The first part is the whole batch, of which
    that is known already.
    """

    def __init__(self, ids: Sequence[AnyId]) -> None:
        """Begin with the conversations of the batch, in the order of their deadlines."""
        self._parts = [ids] if ids else []
        self._unchanged: set[AnyId] = set()
        self.ended = 0
        self.rearmed = 0
        self.last_deadline: datetime | None = None
        """The latest deadline of what was swept."""

    def __iter__(self) -> Iterator[Sequence[AnyId]]:
        """Yield the parts, in the order of their deadlines; they become more while parts are refused."""
        while self._parts:
            yield self._parts.pop()

    def record(self, part: Sequence[AnyId], outcome: SweepResult | Exception) -> Exception | None:
        """Record what came of a part; return why its one conversation is refused, or None where that is not so."""
        if isinstance(outcome, SweepResult):
            self.ended += outcome.ended
            self.rearmed += outcome.rearmed
            self.last_deadline = outcome.last_deadline or self.last_deadline
            if not outcome.changed_nothing:
                return None
            outcome = ConversationUnchangedError()
        if len(part) > 1:
            middle = len(part) // 2
            self._parts += [part[middle:], part[:middle]]
            return None
        if isinstance(outcome, ConversationUnchangedError) and part[0] not in self._unchanged:
            self._unchanged.add(part[0])  # it may have got a message at that very moment
            self._parts.append(part)
            return None
        return outcome

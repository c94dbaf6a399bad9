"""Halving a batch that the database refused, until each conversation to blame is alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from lapse.errors import ConversationRefusedError, ConversationUnchangedError, StatementTimeoutError
from lapse.models import AnyId, SweepResult
from lapse.worker.tasks import Sweep


class Halving:
    """One refused batch: what is not refused of it is swept."""

    def __init__(
        self,
        sweep: Sweep,
        on_batch: Callable[[SweepResult], None],
        on_refused: Callable[[AnyId, Exception], None],
        is_over: Callable[[], bool],
    ) -> None:
        """Prepare it.

        Args:
            sweep: what the batch was of.
            on_batch: called after each part that was swept.
            on_refused: called with a conversation that was refused, and why; may raise.
            is_over: asked before each part.
        """
        self._sweep, self._on_batch, self._on_refused, self._is_over = sweep, on_batch, on_refused, is_over
        self.is_cut_short = False
        """Whether the time was over before the end."""
        self.last_deadline: datetime | None = None
        """The latest deadline of what was swept."""

    def run(self, ids: Sequence[AnyId], problem: Exception) -> None:
        """Go through a batch that met this problem as a whole, in the order of its deadlines."""
        if len(ids) == 1:
            if isinstance(problem, ConversationUnchangedError):
                self.try_one(ids[0])  # it may have got a message at that very moment
            else:
                self._on_refused(ids[0], problem)
            return
        middle = len(ids) // 2
        for half in filter(None, (ids[:middle], ids[middle:])):
            if self._is_over():
                self.is_cut_short = True
            if self.is_cut_short:
                return
            if found := self._problem_of(half):
                self.run(half, found)

    def try_one(self, conv_id: AnyId) -> bool:
        """Sweep one conversation; tell whether it was refused."""
        if found := self._problem_of([conv_id]):
            self._on_refused(conv_id, found)
        return found is not None

    def _problem_of(self, ids: Sequence[AnyId]) -> Exception | None:
        try:
            result = self._sweep.sweep_only(ids)
        except (ConversationRefusedError, StatementTimeoutError) as error:
            return error
        self._on_batch(result)
        self.last_deadline = result.last_deadline or self.last_deadline
        return ConversationUnchangedError() if result.changed_nothing else None

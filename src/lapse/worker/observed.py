"""Sweeps as their worker sees them: each batch is noted as progress, counted, and a span of a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from lapse.models import AnyId, SweepResult
from lapse.store.statements import BEGINNING_OF_TIME
from lapse.tracing import span
from lapse.worker.progress import Progress
from lapse.worker.tasks import Sweep


class ObservedSweep:
    """A sweep that does the same, and is seen doing it."""

    def __init__(self, sweep: Sweep, task: str, progress: Progress, count: Callable[[str, SweepResult], None]) -> None:
        """Observe a sweep of a task; `count` is called with the task's name after each batch."""
        self._sweep, self._task, self._progress, self._count = sweep, task, progress, count

    def sweep(self, limit: int, after: datetime = BEGINNING_OF_TIME, without: Sequence[AnyId] = ()) -> SweepResult:
        """Sweep a batch."""
        result = self._observe(limit, lambda: self._sweep.sweep(limit, after, without))
        # A batch that was left as it was, as a whole, met no message but something that refuses.
        self._count(self._task, _without_contended(result) if result.changed_nothing else result)
        return result

    def sweep_only(self, ids: Sequence[AnyId]) -> SweepResult:
        """Sweep some conversations, of a batch that was refused."""
        result = self._observe(len(ids), lambda: self._sweep.sweep_only(ids))
        self._count(self._task, _without_contended(result))
        return result

    def look(self, limit: int, after: datetime = BEGINNING_OF_TIME, without: Sequence[AnyId] = ()) -> list[AnyId]:
        """Return what `sweep` would claim."""
        with self._progress.asking_database():
            return self._sweep.look(limit, after, without)

    def _observe(self, limit: int, batch: Callable[[], SweepResult]) -> SweepResult:
        with span("lapse.batch", task=self._task, batch_size=limit) as batch_span, self._progress.asking_database():
            result = batch()
            batch_span.set(claimed=result.claimed, ended=result.ended, rearmed=result.rearmed)
        return result


def _without_contended(result: SweepResult) -> SweepResult:
    return replace(result, claimed=result.ended + result.rearmed)

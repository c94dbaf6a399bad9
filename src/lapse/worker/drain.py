"""Draining: a task's sweeps, batch after batch, until nothing due is left or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from lapse.errors import ConversationRefusedError, StatementTimeoutError
from lapse.models import SweepResult
from lapse.store.sweep_statements import BEGINNING_OF_TIME
from lapse.worker.batch_size import BatchSize
from lapse.worker.pauses import RateLimit
from lapse.worker.set_aside import SetAside
from lapse.worker.tasks import Sweep, Task

REFUSED_IN_A_ROW = 100
"""A run that only meets refusals fails after so many: then it is hardly the conversations' own fault."""

log = structlog.get_logger("lapse")


@dataclass(slots=True, kw_only=True)
class TaskRun:
    """What one run of a task did: one or more batches."""

    task: str
    ended: int = 0
    rearmed: int = 0
    refused: int = 0
    """Conversations that the database refused to end; they are set aside, and tried again later."""
    batches: int = 0
    seconds: float = 0.0
    is_drained: bool = True
    """False when the time was over, or a stop came, before everything due was done."""
    error: Exception | None = None

    def add(self, result: SweepResult) -> None:
        """Count a batch."""
        self.ended += result.ended
        self.rearmed += result.rearmed
        self.batches += 1


class Drain:
    """One task's way through what is due, and what it knows from run to run."""

    def __init__(
        self,
        task: Task,
        batch_size: BatchSize,
        rate_limit: RateLimit | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Prepare the drain of a task.

        Args:
            task: its sweeps are drained in their order.
            batch_size: of this task alone, since another task's batches take another time.
            rate_limit: of the whole worker.
            pause: waits so many seconds; a stop may end it.
        """
        self.task = task
        self.set_aside = SetAside()
        self._batch_size = batch_size
        self._rate_limit = rate_limit or RateLimit()
        self._pause = pause
        # Where a sweep goes on that ran out of time.
        self._after = [BEGINNING_OF_TIME] * len(task.sweeps)

    def run(self, is_over: Callable[[], bool]) -> TaskRun:
        """Sweep until nothing due is left or `is_over()` says so between two batches.

        A failure is returned, not raised: the batches before it stay done.
        """
        run, begin = TaskRun(task=self.task.name), time.monotonic()
        try:
            for place, sweep in enumerate(self.task.sweeps):
                self._try_again(sweep, run, is_over)
                self._drain(place, sweep, run, is_over)
                if not run.is_drained:
                    break
        except Exception as error:
            run.is_drained, run.error = False, error
        run.seconds = time.monotonic() - begin
        return run

    def _drain(self, place: int, sweep: Sweep, run: TaskRun, is_over: Callable[[], bool]) -> None:
        while True:
            limit, begin = self._rate_limit.cap(self._batch_size.value), time.monotonic()
            try:
                result = sweep.sweep(limit, self._after[place], self.set_aside.ids)
            except StatementTimeoutError as error:
                if not self._batch_size.timed_out():
                    raise
                log.warning("batch timed out", task=self.task.name, batch_size=limit, error=str(error))
                continue
            except ConversationRefusedError as error:
                result = self._without_refused(sweep, limit, self._after[place], error, run, is_over)
            else:
                self._batch_size.took(result.claimed, time.monotonic() - begin)
                run.add(result)
            if result.claimed < limit:
                self._after[place] = BEGINNING_OF_TIME
                return
            # From the last deadline on: what was ended before it still stands in the index, as dead entries.
            self._after[place] = result.last_deadline or self._after[place]
            self._pause_for(result.claimed, begin)
            if is_over():
                run.is_drained = False
                return

    def _without_refused(
        self,
        sweep: Sweep,
        limit: int,
        after: datetime,
        error: ConversationRefusedError,
        run: TaskRun,
        is_over: Callable[[], bool],
    ) -> SweepResult:
        """Sweep a refused batch in halves until each one to blame is alone; returns how far that went."""
        ids = sweep.look(limit, after, self.set_aside.ids)
        last_deadline = self._halve(sweep, ids, error, run, is_over)
        return SweepResult(claimed=len(ids), last_deadline=last_deadline)

    def _halve(
        self,
        sweep: Sweep,
        ids: Sequence[UUID],
        error: ConversationRefusedError,
        run: TaskRun,
        is_over: Callable[[], bool],
    ) -> datetime | None:
        if len(ids) == 1:
            self._refuse(ids[0], error, run)
            return None
        last_deadline: datetime | None = None
        for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
            if not half:
                continue
            if is_over():
                run.is_drained = False
                break
            begin = time.monotonic()
            try:
                result = sweep.sweep_only(half)
            except ConversationRefusedError as refusal:
                reached = self._halve(sweep, half, refusal, run, is_over)
            else:
                run.add(result)
                self._pause_for(result.claimed, begin)
                reached = result.last_deadline
            last_deadline = reached or last_deadline
        return last_deadline

    def _try_again(self, sweep: Sweep, run: TaskRun, is_over: Callable[[], bool]) -> None:
        """Sweep what was set aside and has waited long enough, each conversation alone."""
        for conv_id in self.set_aside.ready:
            if is_over():
                run.is_drained = False
                return
            try:
                result = sweep.sweep_only([conv_id])
            except ConversationRefusedError as error:
                self._refuse(conv_id, error, run)
            else:
                # Nothing claimed: not due any more, or locked, and then the next batch finds it.
                run.add(result)
                self.set_aside.forget(conv_id)

    def _refuse(self, conv_id: UUID, error: ConversationRefusedError, run: TaskRun) -> None:
        run.refused += 1
        if self.set_aside.is_full or (run.refused > REFUSED_IN_A_ROW and not run.ended):
            raise error
        log.error(
            "conversation refused",
            task=self.task.name,
            conv_id=str(conv_id),
            error=str(error),
            retry_in_seconds=round(self.set_aside.add(conv_id), 1),
        )

    def _pause_for(self, conversations: int, begin: float) -> None:
        if (seconds := self._rate_limit.pause_after(conversations, begin)) > 0:
            self._pause(seconds)

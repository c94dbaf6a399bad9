"""Draining: a task's sweeps, batch after batch, until nothing due is left or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lapse.errors import ConversationRefusedError, ConversationUnchangedError, StatementTimeoutError
from lapse.logs import EventLogger
from lapse.models import AnyId, SweepResult
from lapse.store.statements import BEGINNING_OF_TIME
from lapse.worker.batch_size import BatchSize
from lapse.worker.halving import Halving
from lapse.worker.pauses import RateLimit
from lapse.worker.set_aside import SetAside
from lapse.worker.tasks import Sweep, Task

REFUSED_IN_A_ROW = 100
"""A run that only meets refusals fails after so many: then it is hardly the conversations' own fault."""
RETRIES_PER_RUN = 50
"""Of what was set aside: the others come first."""

log = EventLogger(__name__)


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
        self._batch_size = batch_size
        self._rate_limit = rate_limit or RateLimit()
        self._pause = pause
        # By the place of the sweep: where it goes on when it ran out of time, and what was refused to it.
        self._after = [BEGINNING_OF_TIME] * len(task.sweeps)
        self._set_aside = [SetAside() for _ in task.sweeps]
        self._in_a_row = 0

    @property
    def set_aside_ids(self) -> list[AnyId]:
        """Return the conversations that are set aside."""
        return [conv_id for aside in self._set_aside for conv_id in aside.ids]

    @property
    def seconds_to_retry(self) -> float:
        """Return when the first of them is to be tried again; infinite when there are none."""
        return min(aside.seconds_to_next for aside in self._set_aside)

    def run(self, is_over: Callable[[], bool]) -> TaskRun:
        """Sweep until nothing due is left or `is_over()` says so between two batches.

        A failure is returned, not raised: the batches before it stay done.
        """
        run, begin = TaskRun(task=self.task.name), time.monotonic()
        self._in_a_row = 0
        try:
            for place, sweep in enumerate(self.task.sweeps):
                self._drain(place, sweep, run, is_over)
                if not run.is_drained:
                    break
                self._try_again(place, sweep, run, is_over)
        except Exception as error:
            run.is_drained, run.error = False, error
        run.seconds = time.monotonic() - begin
        return run

    def _drain(self, place: int, sweep: Sweep, run: TaskRun, is_over: Callable[[], bool]) -> None:
        while True:
            limit, begin = self._rate_limit.cap(self._batch_size.value), time.monotonic()
            result = self._batch(place, sweep, limit, run, is_over)
            if result is not None and run.is_drained:
                if result.claimed < limit:
                    self._after[place] = BEGINNING_OF_TIME
                    return
                # From the last deadline on: what was ended before it still stands in the index, as dead entries.
                self._after[place] = result.last_deadline or self._after[place]
                self._pause_for(result.claimed, begin)
            if is_over():
                run.is_drained = False
                return

    def _batch(
        self, place: int, sweep: Sweep, limit: int, run: TaskRun, is_over: Callable[[], bool]
    ) -> SweepResult | None:
        """Sweep a batch and return what was claimed of it; None where it was too large for its time."""
        after, aside, begin = self._after[place], self._set_aside[place], time.monotonic()
        try:
            result = sweep.sweep(limit, after, aside.ids)
        except StatementTimeoutError as error:
            if limit > 1:
                self._batch_size.timed_out(limit)
                log.warning("batch timed out", task=self.task.name, batch_size=limit, error=str(error))
                return None
            # Slow all by itself: it must not be in the others' way.
            problem: Exception = error
        except ConversationRefusedError as error:
            problem = error
        else:
            self._batch_size.took(result.claimed, time.monotonic() - begin)
            run.add(result)
            if not result.changed_nothing:
                return result
            problem = ConversationUnchangedError()
        ids = sweep.look(limit, after, aside.ids)
        halving = Halving(sweep, run.add, lambda conv_id, error: self._refuse(place, conv_id, error, run), is_over)
        halving.run(ids, problem)
        run.is_drained = not halving.is_cut_short
        return SweepResult(claimed=len(ids), last_deadline=halving.last_deadline)

    def _try_again(self, place: int, sweep: Sweep, run: TaskRun, is_over: Callable[[], bool]) -> None:
        """Sweep what was set aside and has waited long enough, each conversation alone."""
        aside = self._set_aside[place]
        for conv_id in aside.ready[:RETRIES_PER_RUN]:
            if is_over():
                run.is_drained = False
                return
            one = Halving(sweep, run.add, lambda refused, error: self._put_aside(aside, refused, error, run), is_over)
            if not one.try_one(conv_id):
                # Ended; or not due any more; or locked, and then a later batch finds it.
                aside.forget(conv_id)

    def _refuse(self, place: int, conv_id: AnyId, error: Exception, run: TaskRun) -> None:
        aside = self._set_aside[place]
        self._in_a_row += 1
        if aside.is_full or (self._in_a_row > REFUSED_IN_A_ROW and not run.ended):
            run.refused += 1
            raise error
        self._put_aside(aside, conv_id, error, run)

    def _put_aside(self, aside: SetAside, conv_id: AnyId, error: Exception, run: TaskRun) -> None:
        run.refused += 1
        log.error(
            "conversation refused",
            task=self.task.name,
            conv_id=str(conv_id),
            error=str(error),
            retry_in_seconds=round(aside.add(conv_id), 1),
        )

    def _pause_for(self, conversations: int, begin: float) -> None:
        if (seconds := self._rate_limit.pause_after(conversations, begin)) > 0:
            self._pause(seconds)

"""Running one task: its drain, its totals, its log lines, and its rest after a failure."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable

from lapse.addresses import mask_addresses
from lapse.logs import EventLogger
from lapse.models import NextDeadlines
from lapse.tracing import span
from lapse.worker.drain import Drain, TaskRun
from lapse.worker.metrics import TaskMetrics
from lapse.worker.pauses import Backoff

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 5.0
"""After a failure. Whatever was the matter, lapse works again at most this long after it is over."""

log = EventLogger(__name__)


class TaskRunner:
    """One task of a worker. A failure is logged, counted and returned, not raised, and the task rests for a while."""

    def __init__(self, drain: Drain, count_run: Callable[[TaskRun, int], None] = lambda run, set_aside: None) -> None:
        """Run this drain's task; `count_run` is called with each run, and with how much is set aside after it."""
        self.drain = drain
        self._count_run = count_run
        self.metrics = TaskMetrics()
        self._rest = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)

    @property
    def is_resting(self) -> bool:
        """Tell whether the task has failed just now."""
        return self._rest.seconds_left > 0

    def wake(self) -> None:
        """End the rest."""
        self._rest.succeeded()

    def run(self, cycle: int, deadlines: NextDeadlines | None, is_over: Callable[[], bool]) -> TaskRun:
        """Run the task now.

        Args:
            cycle: the worker's, for the log.
            deadlines: what the database says is next. A task with nothing due succeeds without a sweep; with None it
                sweeps in any case.
            is_over: asked between two batches.
        """
        run = TaskRun(task=self.drain.task.name)
        if deadlines is None or self._seconds_to_work(deadlines) < 0:
            with span("lapse.task", task=run.task, cycle=cycle) as task_span:
                run = self.drain.run(is_over)
                task_span.set(batches=run.batches, ended=run.ended, rearmed=run.rearmed, refused=run.refused)
                if run.error is not None:
                    task_span.fail(run.error)
        self.metrics.total_items_refused += run.refused
        if run.error is None:
            self.metrics.record_success(run.ended, run.seconds)
            self._rest.succeeded()
        else:
            self.metrics.record_failure(mask_addresses(str(run.error)), run.seconds, run.ended)
        self._count_run(run, len(self.drain.set_aside_ids))
        self._log(run, cycle)
        return run

    def seconds_to_next(self, deadlines: NextDeadlines | None) -> float:
        """Return when the task has to run again, in seconds from now; may be negative, or infinite."""
        if self.is_resting:
            return self._rest.seconds_left
        return 0.0 if deadlines is None else self._seconds_to_work(deadlines)

    def _seconds_to_work(self, deadlines: NextDeadlines) -> float:
        due_at = self.drain.task.due_at(deadlines)
        to_due = math.inf if due_at is None else (due_at - deadlines.now).total_seconds()
        # Deadlines are strict, pauses are not.
        return min(to_due, self.drain.seconds_to_retry or -1.0)

    def _log(self, run: TaskRun, cycle: int) -> None:
        fields = {
            "task": run.task,
            "cycle": cycle,
            "count": run.ended,
            "execution_time_seconds": round(run.seconds, 3),
            **self.drain.task.log_fields,
        }
        if run.error is not None:
            retry_in_seconds = round(self._rest.failed(), 2)
            log.error(
                "task failed",
                error=str(run.error),
                retry_in_seconds=retry_in_seconds,
                **fields,
                # Written out here: some renderers of `exc_info` show the values of variables, and so addresses.
                exception=mask_addresses("".join(traceback.format_exception(run.error)).rstrip()),
            )
        elif run.ended or not run.is_drained:
            # What is left waits for the next cycle, or the next `--once`.
            log.info("task processed", **fields, **({} if run.is_drained else {"is_drained": False}))

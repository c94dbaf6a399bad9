"""The protocol of tasks, and the runner that runs one."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from lapse.addresses import mask_addresses, shown
from lapse.errors import InvalidInputError
from lapse.logs import EventLogger
from lapse.models import AnyId, NextDeadlines, SweepResult
from lapse.shutdown import STOP_GRACE_SECONDS, Interrupted, StopEvent
from lapse.tracing import span
from lapse.worker.backoff import Backoff
from lapse.worker.liveness import Heartbeat

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 5.0
"""After a failure. Whatever was the matter, lapse works again at most this long after it is over."""
BACKOFF_SECONDS = (FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
DEFAULT_TASK_CONFIG: dict[str, Any] = {"enabled": True, "interval_multiplier": 1}

log = EventLogger(__name__)


@dataclass(slots=True, kw_only=True)
class TaskResult:
    """What one run of a task did: one or more batches."""

    task: str
    ended: int = 0
    rearmed: int = 0
    refused: int = 0
    """Conversations that the database refused to end; they are quarantined, and tried again later."""
    deleted: int = 0
    """Receipts whose time was over."""
    batches: int = 0
    seconds: float = 0.0
    completed: bool = True
    """False when the time was over, or a stop came, before everything due was done."""
    error: Exception | None = None

    def add(self, batch: SweepResult) -> None:
        """Count a batch."""
        self.ended += batch.ended
        self.rearmed += batch.rearmed
        self.batches += 1


class NullMetrics:
    """The metrics of a worker that has none."""

    registry: CollectorRegistry | None = None
    """The Prometheus metrics, if there are any."""
    wants_active: bool = False
    """Whether the number of active conversations should be counted now."""

    def count_batch(self, task: str, batch: SweepResult) -> None:
        """Count a batch of a task."""

    def count_run(self, result: TaskResult, quarantined: int) -> None:
        """Count a run of a task, after which so many conversations are quarantined."""

    def count_failure(self, task: str) -> None:
        """Count that a task could not run, since the database did not say what is due."""

    def count_receipts(self, deleted: int) -> None:
        """Count receipts that were deleted."""

    def record_deadlines(self, deadlines: NextDeadlines) -> None:
        """Record what is due next."""

    def set_active(self, conversations: int) -> None:
        """Record how many conversations are active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """What the parts of one worker share."""

    metrics: NullMetrics = field(default_factory=NullMetrics)
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    stop_event: StopEvent = field(default_factory=StopEvent)


class Task(Protocol):
    """One kind of work."""

    name: str
    log_fields: Mapping[str, Any]
    """Additional fields of its log lines."""
    slice_seconds: float
    """How long it may keep the others waiting, while a worker goes on; what is left it does in the next cycles."""

    @property
    def quarantined_ids(self) -> Sequence[AnyId]:
        """Return the conversations that it leaves out at present."""

    def seconds_to_work(self, deadlines: NextDeadlines) -> float:
        """Return when it next has work, in seconds from `deadlines.now`; negative: now; infinite: nothing to come."""

    def work(self, result: TaskResult) -> Iterator[float]:
        """Do what is due, and count it in `result`, which holds what is done whenever it is left or fails.

        Yields:
            After each bounded piece of work, where more is left: the seconds to pause. It may be left there.
        """


@dataclass
class TaskMetrics:
    """Totals of one task since the worker was made."""

    total_runs: int = 0
    successful_runs: int = 0
    failed_runs: int = 0
    total_items_processed: int = 0
    last_run_at: datetime | None = None
    total_execution_time_seconds: float = 0.0
    total_items_refused: int = 0
    """How often the database refused to end a conversation, which was then quarantined."""
    last_error: str | None = None
    """Why the latest run failed; None when it succeeded."""

    def record_success(self, items: int, seconds: float) -> None:
        """Count a run that ended `items` conversations in `seconds`."""
        self.successful_runs += 1
        self.total_items_processed += items
        self._record(seconds, None)

    def record_failure(self, error: str, seconds: float, items: int = 0) -> None:
        """Count a run that failed after `seconds`, when it had ended `items` conversations."""
        self.failed_runs += 1
        self.total_items_processed += items
        self._record(seconds, error)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-ready, with the rates that people ask for."""
        runs = max(self.total_runs, 1)
        return asdict(self) | {
            "last_run_at": self.last_run_at.isoformat() if self.last_run_at else None,
            "success_rate": self.successful_runs / runs,
            "average_execution_time_seconds": self.total_execution_time_seconds / runs,
        }

    def _record(self, seconds: float, error: str | None) -> None:
        self.total_runs += 1
        self.total_execution_time_seconds += seconds
        self.last_run_at = datetime.now(UTC)
        self.last_error = error


class TaskRunner:
    """Runs one task of a worker. A failure is logged, counted and returned, not raised, and the task backs off."""

    def __init__(self, task: Task, context: WorkerContext) -> None:
        """Prepare it; a stop signal during a run waits five seconds for the piece of work in hand."""
        self.task = task
        self.metrics = TaskMetrics()
        self._context = context
        self._backoff = Backoff(*BACKOFF_SECONDS)

    @property
    def is_backing_off(self) -> bool:
        """Tell whether the task has failed just now."""
        return self._backoff.remaining > 0

    def reset_backoff(self) -> None:
        """Let the task run at once, whatever has failed."""
        self._backoff.reset()

    def seconds_to_next(self, deadlines: NextDeadlines | None) -> float:
        """Return when the task has to run again, in seconds from now; may be negative, or infinite."""
        if self.is_backing_off:
            return self._backoff.remaining
        return 0.0 if deadlines is None else self.task.seconds_to_work(deadlines)

    def run(self, cycle: int, deadlines: NextDeadlines | None, max_seconds: float) -> TaskResult:
        """Run the task now.

        Args:
            cycle: the worker's, for the log.
            deadlines: what the database says is next. A task with nothing due succeeds without work; with None it works
                in any case.
            max_seconds: no piece of work begins later than this after the first one.
        """
        result, begin = TaskResult(task=self.task.name), time.monotonic()
        heartbeat, stop_event = self._context.heartbeat, self._context.stop_event
        if deadlines is None or self.task.seconds_to_work(deadlines) < 0:
            with span("lapse.task", task=result.task, cycle=cycle) as task_span:
                try:
                    with stop_event.interruptible(STOP_GRACE_SECONDS):
                        for pause in self.task.work(result):
                            heartbeat.wait(pause, stop_event)
                            elapsed = time.monotonic() - begin
                            if stop_event.is_set() or elapsed >= max_seconds:
                                result.completed = False
                                break
                            if deadlines is not None and elapsed >= self.task.slice_seconds:
                                break
                except Interrupted:
                    # Neither a success nor a failure: what was done is in the database, and nobody runs on.
                    log.warning("batch given up for the stop", task=result.task, cycle=cycle)
                    result.completed = False
                    return result
                except Exception as error:
                    result.completed, result.error = False, error
                    task_span.fail(error)
                result.seconds = time.monotonic() - begin
                task_span.set(
                    batches=result.batches, ended=result.ended, rearmed=result.rearmed, refused=result.refused
                )
        self._record(result, cycle)
        return result

    def record_failed_poll(self, error: str) -> None:
        """Count that the database did not say what is due: the task could not run."""
        self.metrics.record_failure(error, 0.0)
        self._context.metrics.count_failure(self.task.name)

    def _record(self, result: TaskResult, cycle: int) -> None:
        self.metrics.total_items_refused += result.refused
        self._context.metrics.count_run(result, len(self.task.quarantined_ids))
        fields = {
            "task": result.task,
            "cycle": cycle,
            "count": result.ended + result.deleted,
            "execution_time_seconds": round(result.seconds, 3),
            **self.task.log_fields,
        }
        if result.error is None:
            self.metrics.record_success(result.ended + result.deleted, result.seconds)
            self._backoff.reset()
            if result.ended or result.deleted or not result.completed:
                # What is left waits for the next cycle, or the next `--once`.
                log.info("task processed", **fields, **({} if result.completed else {"completed": False}))
            return
        self.metrics.record_failure(mask_addresses(str(result.error)), result.seconds, result.ended + result.deleted)
        log.error(
            "task failed",
            error=str(result.error),
            retry_in_seconds=round(self._backoff.record_failure(), 2),
            **fields,
            # Written out here: some renderers of `exc_info` show the values of variables, and so addresses.
            exception=mask_addresses("".join(traceback.format_exception(result.error)).rstrip()),
        )


def is_in_turn(name: str, config: Mapping[str, Any], cycle: int) -> bool:
    """Tell whether a task with this configuration (`enabled`, `interval_multiplier`) runs in a cycle; the first is 1.

    Raises:
        InvalidInputError: the multiplier is no whole number from 1 on.
    """
    multiplier = config.get("interval_multiplier", 1)
    if not isinstance(multiplier, int) or multiplier < 1:
        raise InvalidInputError(
            f"interval_multiplier of {name} must be a whole number from 1 on, not {shown(multiplier)}"
        )
    # The first cycle runs them all.
    return bool(config.get("enabled", True)) and (cycle - 1) % multiplier == 0

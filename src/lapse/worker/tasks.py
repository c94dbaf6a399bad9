"""The worker's tasks: pausing what is idle, ending what has expired, deleting receipts whose time is over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

from lapse.errors import ConversationUnchangedError, StatementTimeoutError
from lapse.lifecycle import whole_seconds
from lapse.logs import EventLogger
from lapse.models import MIN_DATETIME, AnyId, NextDeadlines, SweepResult
from lapse.service import ConversationService
from lapse.store import Database
from lapse.store.limits import ended_by
from lapse.store.operations import Steps, receipts, sweeps
from lapse.store.operations.batch_bisector import REFUSALS, BatchBisector
from lapse.store.operations.receipts import RECEIPTS
from lapse.store.operations.schema import head_version
from lapse.store.operations.sweeps import EXPIRED_CONVERSATIONS, IDLE_CONVERSATIONS, TASKS, Scope, SweepKind
from lapse.tracing import span
from lapse.worker.poller import BacklogGuard
from lapse.worker.quarantine import Quarantine
from lapse.worker.task import NullMetrics, Task, TaskResult, WorkerContext
from lapse.worker.throttle import AdaptiveBatchSize, RateLimit

MAX_REFUSED_IN_A_ROW = 100
"""A run that ends nothing fails after so many refusals: they are hardly the conversations' own fault."""
SECONDS_TO_FIRST_WALK = 60
SECONDS_BETWEEN_WALKS = 60 * 60
"""Receipts may stay so much longer than the setting says."""
RETRIES_PER_RUN = 50
"""Quarantined conversations that one run retries: the others come first."""

log = EventLogger(__name__)


@dataclass(slots=True)
class _Sweep:
    """One kind of sweep, and its state between runs."""

    kind: SweepKind
    quarantine: Quarantine
    cursor: datetime = MIN_DATETIME
    """The deadline that the next run continues from where the last one ran out of time."""


class SweepTask:
    """Sweeps that are drained one after the other, batch after batch, until nothing due is left."""

    def __init__(
        self,
        name: str,
        kinds: Sequence[SweepKind],
        service: ConversationService,
        *,
        batch_size: int | None = None,
        rate_limit: RateLimit | None = None,
        guard: BacklogGuard | None = None,
        context: WorkerContext | None = None,
        log_fields: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the task.

        Args:
            name: of the task.
            kinds: its sweeps, in the order in which they are drained.
            service: whose conversations; its database's schema must be there when the task works.
            batch_size: conversations per transaction; None: what fits into 0.1 seconds.
            rate_limit: of the whole worker.
            guard: says what ends silently.
            context: of the worker; default is one of its own.
            log_fields: what its log lines say besides.
            clock: of the pauses of what was refused, in seconds.
        """
        self.name, self.slice_seconds = name, math.inf
        self.log_fields = log_fields or {}
        self._database = service.database
        self._sweeps = [_Sweep(kind, Quarantine(clock)) for kind in kinds]
        self._batch_size = AdaptiveBatchSize(batch_size)  # another task's batches take another time
        self._rate_limit = rate_limit or RateLimit()
        self._guard = guard
        self._context = context or WorkerContext()
        self._refused_in_a_row = 0

    @property
    def quarantined_ids(self) -> Sequence[AnyId]:
        """Return the conversations that the database refused to end."""
        return [conv_id for sweep in self._sweeps for conv_id in sweep.quarantine.ids]

    def seconds_to_work(self, deadlines: NextDeadlines) -> float:
        """Return when it next has work: something is due, or a refused conversation is to be tried again."""
        due_at = deadlines.due_at.get(self.name)
        to_due = math.inf if due_at is None else (due_at - deadlines.now).total_seconds()
        to_retry = min(sweep.quarantine.seconds_to_next for sweep in self._sweeps)
        # Deadlines are strict, pauses are not.
        return min(to_due, to_retry or -1.0)

    def work(self, result: TaskResult) -> Iterator[float]:
        """Sweep until nothing due is left; as `Task.work`.

        Raises:
            DatabaseError: the database refused all that was tried, or cannot be reached.
        """
        self._refused_in_a_row = 0
        # One after the other, and no frame more than there must be between a task and its statements.
        work = [piece(sweep, result) for sweep in self._sweeps for piece in (self._drain, self._retry_quarantined)]
        return chain.from_iterable(work)

    def _drain(self, sweep: _Sweep, result: TaskResult) -> Iterator[float]:
        while True:
            limit, begin = self._rate_limit.cap(self._batch_size.value), time.monotonic()
            scope = self._scope(sweep, limit)
            problem: Exception | None = None
            try:
                batch = self._sweep(sweep, scope)
            except REFUSALS as error:
                problem = error
            else:
                self._batch_size.record(batch.claimed, time.monotonic() - begin)
                result.add(batch)
                if batch.changed_nothing:
                    problem = ConversationUnchangedError()
            if isinstance(problem, StatementTimeoutError) and limit > 1:
                self._batch_size.on_timeout(limit)
                log.warning("batch timed out", task=self.name, batch_size=limit, error=str(problem))
                yield 0.0
                continue
            if problem is not None:
                batch = yield from self._bisect(sweep, scope, problem, result)
            if batch.claimed < limit:
                sweep.cursor = MIN_DATETIME
                return
            # From the last deadline on: what was ended before it still stands in the index, as dead entries.
            sweep.cursor = batch.last_deadline or sweep.cursor
            yield self._rate_limit.pause_after(batch.claimed, begin)

    def _bisect(
        self, sweep: _Sweep, scope: Scope, problem: Exception, result: TaskResult
    ) -> Generator[float, None, SweepResult]:
        """Sweep what is not refused of a batch that met this problem as a whole; quarantine the rest."""
        with self._context.heartbeat.asking_database():
            select = partial(self._database.run, sweeps.select_due_ids, sweep.kind, scope, reads_only=True, retry=False)
            ids = ended_by(self._context.stop_event.is_set).run(select)
        bisector = BatchBisector(ids)
        outcome: SweepResult | Exception = problem
        for number, part in enumerate(bisector):
            if number > 0:
                outcome = self._try_ids(sweep, part, result)
            if (reason := bisector.record(part, outcome)) is not None:
                self._refused_in_a_row += 1
                is_hopeless = self._refused_in_a_row > MAX_REFUSED_IN_A_ROW and not result.ended
                if sweep.quarantine.is_full or is_hopeless:
                    result.refused += 1
                    raise reason
                self._quarantine(sweep, part[0], reason, result)
            yield 0.0
        return SweepResult(claimed=len(ids), last_deadline=bisector.last_deadline)

    def _retry_quarantined(self, sweep: _Sweep, result: TaskResult) -> Iterator[float]:
        """Sweep what was quarantined and has waited long enough, each conversation alone."""
        for conv_id in sweep.quarantine.ready[:RETRIES_PER_RUN]:
            yield 0.0
            outcome = self._try_ids(sweep, [conv_id], result)
            if isinstance(outcome, SweepResult) and outcome.changed_nothing:
                outcome = ConversationUnchangedError()
            if isinstance(outcome, Exception):
                self._quarantine(sweep, conv_id, outcome, result)
            else:
                # Ended; or not due any more; or locked, and then a later batch finds it.
                sweep.quarantine.release(conv_id)

    def _quarantine(self, sweep: _Sweep, conv_id: AnyId, problem: Exception, result: TaskResult) -> None:
        result.refused += 1
        log.error(
            "conversation refused",
            task=self.name,
            conv_id=str(conv_id),
            error=str(problem),
            retry_in_seconds=round(sweep.quarantine.add(conv_id), 1),
        )

    def _scope(self, sweep: _Sweep, limit: int) -> Scope:
        silent_before = self._guard.silent_before if self._guard else None
        return Scope(limit, sweep.cursor, sweep.quarantine.ids, silent_before=silent_before)

    def _try_ids(self, sweep: _Sweep, ids: Sequence[AnyId], result: TaskResult) -> SweepResult | Exception:
        """Sweep those of some conversations that are due, in one batch, or return why they are refused."""
        scope = self._scope(sweep, len(ids))._replace(cursor=MIN_DATETIME, ids=ids, is_among=True)
        try:
            batch = self._sweep(sweep, scope)
        except REFUSALS as error:
            return error
        result.add(batch)
        return batch

    def _sweep(self, sweep: _Sweep, scope: Scope) -> SweepResult:
        """Sweep one batch, seen by traces, metrics and the liveness probe."""
        with (
            span("lapse.batch", task=self.name, batch_size=scope.limit) as batch_span,
            self._context.heartbeat.asking_database(),
        ):
            run = partial(self._database.run, sweeps.sweep_batch, sweep.kind, scope, retry=False)
            batch = ended_by(self._context.stop_event.is_set).run(run)
            batch_span.set(claimed=batch.claimed, ended=batch.ended, rearmed=batch.rearmed)
        # A batch that was left as it was, as a whole, met no message but something that refuses.
        is_refused = scope.is_among or batch.changed_nothing
        self._context.metrics.count_batch(
            self.name, replace(batch, claimed=batch.ended + batch.rearmed) if is_refused else batch
        )
        return batch


class ReceiptsTask:
    """Deletes receipts that are old enough, on a walk through their whole table every so often: it has no index."""

    name = RECEIPTS
    quarantined_ids: Sequence[AnyId] = ()
    slice_seconds = 0.05

    def __init__(
        self, service: ConversationService, context: WorkerContext, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare the task; the first walk begins a little later: what is due comes first.

        Args:
            service: whose receipts, and whose settings.
            context: of the worker.
            clock: in seconds.
        """
        self.log_fields: Mapping[str, Any] = {"receipt_days": service.settings.receipt_days}
        self._seconds = round(service.settings.receipt_days * 24 * 60 * 60)
        self._database, self._context, self._clock = service.database, context, clock
        self._place = 0
        """Where the walk goes on."""
        self._next_walk_at = clock() + SECONDS_TO_FIRST_WALK

    def seconds_to_work(self, _deadlines: NextDeadlines) -> float:
        """Return when it next has work: a walk is not over, or the next one begins."""
        return -1.0 if self._place else (self._next_walk_at - self._clock()) or -1.0

    def work(self, result: TaskResult) -> Iterator[float]:
        """Go on with the walk, piece by piece, to the end of the table; as `Task.work`.

        Raises:
            DatabaseError: the database refused, or cannot be reached.
        """
        extent = self._run(receipts.extent)
        while self._place < extent:
            deleted = self._run(receipts.delete_piece, self._place, self._seconds)
            self._place += receipts.PIECE[self._database.dialect]
            result.deleted += deleted
            result.batches += 1
            self._context.metrics.count_receipts(deleted)
            if self._place < extent:
                yield 0.0
        self._place, self._next_walk_at = 0, self._clock() + SECONDS_BETWEEN_WALKS

    def _run(self, operation: Callable[..., Steps[int]], *arguments: int) -> int:
        with self._context.heartbeat.asking_database():
            run = partial(self._database.run, operation, *arguments, retry=False)
            return ended_by(self._context.stop_event.is_set).run(run)


def sweep_tasks(service: ConversationService, **options: Any) -> dict[str, Task]:
    """Return the tasks by name, with these options of `SweepTask`.

    Expiry comes first where both deadlines have passed, in whatever order they run.
    """
    idle_kinds = sweeps.idle_sweeps(whole_seconds(service.idle_timeout()))
    idle_fields = {"idle_minutes": service.settings.idle_timeout_minutes}
    tasks = (
        SweepTask(IDLE_CONVERSATIONS, idle_kinds, service, log_fields=idle_fields, **options),
        SweepTask(EXPIRED_CONVERSATIONS, (sweeps.EXPIRED,), service, **options),
    )
    return {task.name: task for task in tasks}


def make_metrics(database: Database, *, is_enabled: bool) -> NullMetrics:
    """Return what counts for a worker with these tasks on this database."""
    if not is_enabled:
        return NullMetrics()
    from lapse import __version__
    from lapse.worker.prometheus import PrometheusMetrics

    schema_version = head_version()
    known = {"version": __version__, "schema_version": schema_version, "database": database.dialect}
    return PrometheusMetrics(TASKS, [RECEIPTS], **known)

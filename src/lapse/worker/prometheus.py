"""The worker's Prometheus metrics; docs/operations.md says what to do with each."""

from __future__ import annotations

import itertools
import math
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from lapse.models import NextDeadlines, SweepResult
from lapse.worker.task import NullMetrics, TaskResult

_Metric = TypeVar("_Metric", Counter, Gauge)
TASK = "task_type"
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds: from a run that found nothing to the interval, which a run may take at most."""
LAG_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 21_600)
"""Seconds: usually about one; hours after an outage."""


class PrometheusMetrics(NullMetrics):
    """The metrics of one worker. A scrape makes no query."""

    def __init__(
        self, sweeps: Sequence[str], others: Sequence[str] = (), *, version: str, schema_version: str, database: str
    ) -> None:
        """Begin at zero for each of these tasks.

        Args:
            sweeps: the names of the tasks that end conversations.
            others: of the worker's other tasks.
            version: of lapse.
            schema_version: that this lapse needs.
            database: `postgresql` or `sqlite`.
        """
        self.registry: CollectorRegistry = CollectorRegistry()
        tasks = (*sweeps, *others)
        self._processed = self._counter(
            "background_conversations_processed", "Conversations that the worker ended.", sweeps
        )
        self._failures = self._counter("background_task_failures", "Runs of a task that failed.", tasks)
        self._rearmed = self._counter(
            "lapse_conversations_rearmed", "Conversations looked at that had activity meanwhile.", sweeps
        )
        self._contended = self._counter(
            "lapse_conversations_contended", "Conversations that changed between claim and update.", sweeps
        )
        self._refused = self._counter(
            "lapse_conversations_refused", "Times that the database refused to end a conversation.", sweeps
        )
        self._quarantined = self._gauge(
            "lapse_conversations_quarantined",
            "Conversations that are due and that the database refuses to end.",
            sweeps,
        )
        self._last_success = self._gauge(
            "lapse_task_last_success_timestamp_seconds", "Unix time of the latest run that succeeded; 0: none.", tasks
        )
        self._duration = Histogram(
            "background_task_duration_seconds",
            "Duration of the runs of a task that had something to look at.",
            [TASK],
            registry=self.registry,
            buckets=DURATION_BUCKETS,
        )
        self._receipts = Counter(
            "lapse_receipts_deleted", "Receipts of messages whose time was over.", registry=self.registry
        )
        self._active, self.wants_active = 0, True
        active = Gauge(
            "active_conversations",
            "Conversations that are pending or in progress; the same of every worker: take the maximum.",
            registry=self.registry,
        )
        active.set_function(self._read_active)
        oldest_due = self._gauge("lapse_oldest_due_seconds", "How long the oldest deadline has been due.", sweeps)
        self._lag = _LagHistogram(sweeps)
        self.registry.register(self._lag)
        Info("lapse_worker", "What runs here.", registry=self.registry).info(
            {"version": version, "schema_version": schema_version, "database": database}
        )
        ProcessCollector(registry=self.registry)
        self._due_at: dict[str, float | None] = dict.fromkeys(sweeps)
        for task in tasks:
            self._duration.labels(task)
        for task in sweeps:
            oldest_due.labels(task).set_function(partial(self._seconds_overdue, task))

    def count_batch(self, task: str, batch: SweepResult) -> None:
        """Count a batch at once: a long run shows its progress, and a killed worker loses little."""
        self._processed.labels(task).inc(batch.ended)
        self._rearmed.labels(task).inc(batch.rearmed)
        self._contended.labels(task).inc(batch.contended)
        self._lag.add(task, batch.lags_seconds)

    def count_run(self, result: TaskResult, quarantined: int) -> None:
        """Count a run, and observe its duration if it made a query."""
        if result.task in self._due_at:
            self._refused.labels(result.task).inc(result.refused)
            self._quarantined.labels(result.task).set(quarantined)
        if result.error is None:
            self._last_success.labels(result.task).set_to_current_time()
        else:
            self._failures.labels(result.task).inc()
        if result.batches or result.error is not None:
            self._duration.labels(result.task).observe(result.seconds)

    def count_receipts(self, deleted: int) -> None:
        """Count receipts that were deleted."""
        self._receipts.inc(deleted)

    def count_failure(self, task: str) -> None:
        """Count a run that could not begin."""
        self._failures.labels(task).inc()

    def record_deadlines(self, deadlines: NextDeadlines) -> None:
        """Keep the earliest deadlines: from the moment they pass, something has been due for so long."""
        now = time.monotonic()
        for task, deadline in deadlines.due_at.items():
            # By the database's clock, and from here on by one that nobody sets.
            self._due_at[task] = now + (deadline - deadlines.now).total_seconds() if deadline else None

    def set_active(self, conversations: int) -> None:
        """Keep the number. Another is wanted once a scrape has read it: without scrapes nothing is counted."""
        self._active, self.wants_active = conversations, False

    # --- inside -------------------------------------------------------------------------------------------------

    def _counter(self, name: str, text: str, tasks: Sequence[str]) -> Counter:
        return _with_zeros(Counter(name, text, [TASK], registry=self.registry), tasks)

    def _gauge(self, name: str, text: str, tasks: Sequence[str]) -> Gauge:
        return _with_zeros(Gauge(name, text, [TASK], registry=self.registry), tasks)

    def _read_active(self) -> float:
        self.wants_active = True
        return self._active

    def _seconds_overdue(self, task: str) -> float:
        due_at = self._due_at[task]
        return 0.0 if due_at is None else max(time.monotonic() - due_at, 0.0)


def _with_zeros(metric: _Metric, tasks: Sequence[str]) -> _Metric:
    """Create the series of each task at 0: a counter that first appears at 1 has no rate."""
    for task in tasks:
        metric.labels(task)
    return metric


class _LagHistogram(Collector):
    """How late conversations ended. Adds the lags of a batch at once; `Histogram` takes one observation at a time."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self._counts = {task: [0] * (len(LAG_BUCKETS) + 1) for task in tasks}
        self._sums = dict.fromkeys(self._counts, 0.0)

    def add(self, task: str, lags_seconds: Sequence[float]) -> None:
        # Sorted, so that a batch of thousands takes a look per bucket, and not one per conversation.
        ordered, counts, counted = sorted(lags_seconds), self._counts[task], 0
        for place, bound in enumerate((*LAG_BUCKETS, math.inf)):
            up_to = bisect_right(ordered, bound, lo=counted)
            counts[place] += up_to - counted
            counted = up_to
        self._sums[task] += sum(ordered)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(
            "lapse_transition_lag_seconds", "How long after its deadline a conversation ended.", labels=[TASK]
        )
        bounds = [*(str(float(bound)) for bound in LAG_BUCKETS), "+Inf"]
        for task, counts in self._counts.items():
            buckets = list(zip(bounds, itertools.accumulate(counts), strict=True))
            family.add_metric([task], buckets, self._sums[task])
        yield family

"""The Prometheus metrics: their names and labels, zero from the start, and what counts as what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lapse import NextDeadlines, SweepResult
from lapse.worker import TaskResult
from lapse.worker.prometheus import LAG_BUCKETS, PrometheusMetrics

IDLE, EXPIRED = "idle_conversations", "expired_conversations"
OF_TASKS = {
    "background_conversations_processed_total",
    "background_task_failures_total",
    "background_task_duration_seconds_count",
    "background_task_duration_seconds_sum",
    "background_task_duration_seconds_bucket",
    "lapse_conversations_rearmed_total",
    "lapse_conversations_contended_total",
    "lapse_conversations_refused_total",
    "lapse_conversations_quarantined",
    "lapse_task_last_success_timestamp_seconds",
    "lapse_oldest_due_seconds",
    "lapse_transition_lag_seconds_count",
    "lapse_transition_lag_seconds_sum",
    "lapse_transition_lag_seconds_bucket",
}
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics([IDLE, EXPIRED], version="1.2.3", schema_version="0003", database="sqlite")


def value(metrics: PrometheusMetrics, name: str, task: str | None = None, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels | ({"task_type": task} if task else {}))
    assert found is not None, name
    return found


def test_everything_is_there_and_zero_from_the_start(metrics: PrometheusMetrics) -> None:
    for name in OF_TASKS:
        for task in (IDLE, EXPIRED):
            labels = {"le": "+Inf"} if name.endswith("_bucket") else {}
            assert value(metrics, name, task, **labels) == 0, name
    assert value(metrics, "active_conversations") == 0
    assert value(metrics, "lapse_worker_info", version="1.2.3", schema_version="0003", database="sqlite") == 1
    assert value(metrics, "process_resident_memory_bytes") > 1_000_000


def test_no_label_can_hold_an_address_or_an_owner(metrics: PrometheusMetrics) -> None:
    names = {name for family in metrics.registry.collect() for sample in family.samples for name in sample.labels}
    assert names == {"task_type", "le", "version", "schema_version", "database"}


def test_what_is_active_is_wanted_again_once_it_was_read(metrics: PrometheusMetrics) -> None:
    assert metrics.wants_active, "the first scrape shall find it"
    metrics.set_active(7)
    assert not metrics.wants_active
    assert value(metrics, "active_conversations") == 7
    assert metrics.wants_active


def test_a_batch_counts_at_once(metrics: PrometheusMetrics) -> None:
    metrics.count_batch(IDLE, SweepResult(claimed=10, ended=4, rearmed=3, lags_seconds=[0.05, 0.1, 0.11, 90_000]))
    assert value(metrics, "background_conversations_processed_total", IDLE) == 4
    assert value(metrics, "lapse_conversations_rearmed_total", IDLE) == 3
    assert value(metrics, "lapse_conversations_contended_total", IDLE) == 3
    assert value(metrics, "background_conversations_processed_total", EXPIRED) == 0
    buckets = [value(metrics, "lapse_transition_lag_seconds_bucket", IDLE, le=str(float(le))) for le in LAG_BUCKETS]
    assert buckets == [2, *[3] * (len(LAG_BUCKETS) - 1)], "a bound belongs to its bucket"
    assert value(metrics, "lapse_transition_lag_seconds_count", IDLE) == 4
    assert value(metrics, "lapse_transition_lag_seconds_sum", IDLE) == pytest.approx(90_000.26)


def test_a_run_that_asked_the_database_is_timed(metrics: PrometheusMetrics) -> None:
    metrics.count_run(TaskResult(task=IDLE, seconds=0.0), quarantined=0)
    assert value(metrics, "background_task_duration_seconds_count", IDLE) == 0, "nothing was due, nothing was asked"
    assert value(metrics, "lapse_task_last_success_timestamp_seconds", IDLE) > NOW.timestamp()
    metrics.count_run(TaskResult(task=IDLE, batches=2, seconds=0.3, refused=5), quarantined=4)
    assert value(metrics, "background_task_duration_seconds_count", IDLE) == 1
    assert value(metrics, "background_task_duration_seconds_sum", IDLE) == pytest.approx(0.3)
    assert value(metrics, "lapse_conversations_refused_total", IDLE) == 5
    assert value(metrics, "lapse_conversations_quarantined", IDLE) == 4


def test_a_failed_run_is_no_success(metrics: PrometheusMetrics) -> None:
    metrics.count_run(TaskResult(task=EXPIRED, seconds=0.2, error=RuntimeError("no")), quarantined=0)
    metrics.count_failure(EXPIRED)
    assert value(metrics, "background_task_failures_total", EXPIRED) == 2
    assert value(metrics, "lapse_task_last_success_timestamp_seconds", EXPIRED) == 0
    assert value(metrics, "background_task_duration_seconds_count", EXPIRED) == 1


def test_what_is_due_gets_older_until_the_database_says_otherwise(metrics: PrometheusMetrics) -> None:
    def deadlines(idle: timedelta | None, expired: timedelta | None) -> NextDeadlines:
        due_in = {IDLE: idle, EXPIRED: expired}
        return NextDeadlines(due_at={task: None if due is None else NOW + due for task, due in due_in.items()}, now=NOW)

    metrics.record_deadlines(deadlines(-timedelta(minutes=5), timedelta(minutes=1)))
    first = value(metrics, "lapse_oldest_due_seconds", IDLE)
    assert 300 <= first < 310
    assert value(metrics, "lapse_oldest_due_seconds", IDLE) > first, "it grows by itself: the worker may be stuck"
    assert value(metrics, "lapse_oldest_due_seconds", EXPIRED) == 0, "not due yet"
    metrics.record_deadlines(deadlines(None, None))
    assert value(metrics, "lapse_oldest_due_seconds", IDLE) == 0

"""Totals of a task, as the specification names them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from lapse import TaskMetrics


def test_a_new_task_has_done_nothing() -> None:
    metrics = TaskMetrics()
    assert (metrics.total_runs, metrics.successful_runs, metrics.failed_runs) == (0, 0, 0)
    assert (metrics.total_items_processed, metrics.total_execution_time_seconds) == (0, 0)
    assert metrics.last_run_at is None
    assert metrics.as_dict()["success_rate"] == 0


def test_successes_and_failures_add_up() -> None:
    metrics, before = TaskMetrics(), datetime.now(UTC)
    metrics.record_success(7, 0.5)
    metrics.record_success(0, 0.25)
    metrics.record_failure("the database is not available", 1.25)
    assert (metrics.total_runs, metrics.successful_runs, metrics.failed_runs) == (3, 2, 1)
    assert metrics.total_items_processed == 7
    assert metrics.total_execution_time_seconds == pytest.approx(2.0)
    assert metrics.last_run_at is not None
    assert before <= metrics.last_run_at <= datetime.now(UTC)
    assert metrics.last_error == "the database is not available"
    metrics.record_success(1, 0)
    assert metrics.last_error is None


def test_totals_can_be_written_as_json() -> None:
    metrics = TaskMetrics()
    metrics.record_success(3, 1)
    metrics.record_failure("no", 3)
    found = json.loads(json.dumps(metrics.as_dict()))
    assert (found["success_rate"], found["average_execution_time_seconds"]) == (0.5, 2)
    assert datetime.fromisoformat(found["last_run_at"]).tzinfo is not None

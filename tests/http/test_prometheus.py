"""The whole of it: PostgreSQL, two workers, and a real Prometheus that scrapes both, with the alerts of `deploy/`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import pytest

from lapse import Database
from tests.support.backlog import IDLE_TIMEOUT, insert_conversations
from tests.support.commands import RunningLapse, running_lapse
from tests.support.http_client import request
from tests.support.prometheus import Prometheus, running_prometheus
from tests.support.promql import alerts, dashboard_queries, metric_names, metrics_asked_for
from tests.support.sql import run_sql
from tests.support.waiting import until
from tests.support.workers import EXPIRED, IDLE

SECOND = timedelta(seconds=1)
PATIENCE_SECONDS = 30
OF_EVENTS = {"expired": EXPIRED, "paused": IDLE}


@pytest.fixture
def two_workers(postgres_url: str) -> Iterator[dict[str, RunningLapse]]:
    """Return two workers on one database by where they listen."""
    with ExitStack() as stack:
        workers = {}
        for _ in range(2):
            options = ("--interval", "1", "--batch-size", "20", "--http", "127.0.0.1:0", "--database-url", postgres_url)
            worker = stack.enter_context(running_lapse("worker", *options))
            workers[f"127.0.0.1:{worker.wait_for('http server listening')['port']}"] = worker
        yield workers


@pytest.fixture
def prometheus(two_workers: dict[str, RunningLapse], tmp_path: Path) -> Iterator[Prometheus]:
    with running_prometheus(tmp_path, list(two_workers)) as running:
        until(lambda: len(running.query('up{job="lapse-worker"} == 1')) == 2, PATIENCE_SECONDS)
        yield running


def events(database: Database, what: str) -> dict[str, float]:
    """Return a figure of the events by the task that made them."""
    rows = run_sql(database, f"SELECT type, {what} AS figure FROM conversation_events GROUP BY type")
    return {OF_EVENTS[row.type]: float(row.figure) for row in rows}


def test_prometheus_counts_what_the_database_holds(
    postgres_url: str, two_workers: dict[str, RunningLapse], prometheus: Prometheus
) -> None:
    assert prometheus.by_task("sum by (task_type) (background_conversations_processed_total)") == {IDLE: 0, EXPIRED: 0}
    with closing(Database(postgres_url)) as database:
        # Some are overdue, though not so long as to alert anybody; others come due in the next seconds.
        step = timedelta(milliseconds=10)
        insert_conversations(database, range(300), expires_in=-SECOND, step=step)
        insert_conversations(database, range(300, 600), expires_in=SECOND, step=step)
        insert_conversations(database, range(600, 900), silent_for=IDLE_TIMEOUT + SECOND, step=step)
        insert_conversations(database, range(900, 950))
        until(lambda: events(database, "count(*)") == {EXPIRED: 600, IDLE: 300}, PATIENCE_SECONDS)

        def has_all_events() -> bool:
            counted = prometheus.by_task("sum by (task_type) (background_conversations_processed_total)")
            return counted == events(database, "count(*)")

        until(has_all_events, PATIENCE_SECONDS)
        lags = events(database, "sum(extract(epoch FROM occurred_at - deadline))")
        assert prometheus.by_task("sum by (task_type) (lapse_transition_lag_seconds_sum)") == pytest.approx(lags)
        assert prometheus.by_task("sum by (task_type) (lapse_transition_lag_seconds_count)") == events(
            database, "count(*)"
        )
        within = prometheus.by_task('sum by (task_type) (lapse_transition_lag_seconds_bucket{le="1.0"})')
        assert within == events(database, "count(*) FILTER (WHERE occurred_at - deadline <= interval '1 second')")
    until(lambda: prometheus.query("active_conversations == 50"), PATIENCE_SECONDS)
    until(
        lambda: prometheus.by_task("max by (task_type) (lapse_oldest_due_seconds)") == {IDLE: 0, EXPIRED: 0},
        PATIENCE_SECONDS,
    )
    judge_the_rules(prometheus)
    assert prometheus.alerts() == []
    victim = next(iter(two_workers))
    two_workers[victim].process.kill()
    (alert,) = until(prometheus.alerts, PATIENCE_SECONDS)
    assert (alert["labels"]["alertname"], alert["labels"]["instance"]) == ("LapseWorkerDown", victim)
    assert alert["state"] in {"pending", "firing"}


def judge_the_rules(prometheus: Prometheus) -> None:
    """Check that each alert and each query of the dashboard works on what the workers export."""
    (group,) = prometheus.ask("rules")["groups"]
    assert [rule["name"] for rule in group["rules"]] == [alert["alert"] for alert in alerts()]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}, group
    for query in dashboard_queries():
        if "ALERTS" not in metric_names(query):  # there are none
            assert prometheus.query(query), query


def test_a_worker_exports_every_metric_that_alerts_and_dashboard_name(
    two_workers: dict[str, RunningLapse],
) -> None:
    asked_for = metrics_asked_for()
    assert {"background_task_failures_total", "active_conversations", "lapse_oldest_due_seconds"} <= asked_for
    for listen in two_workers:
        lines = request(int(listen.split(":")[1]), "/metrics").text.splitlines()
        exported = {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")}
        assert asked_for <= exported

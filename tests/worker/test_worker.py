"""The worker: cycles, failures that stay alone, deadlines that shorten its sleep, a database that goes and comes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest

from lapse import (
    BackgroundWorker,
    ConversationService,
    Database,
    InvalidInputError,
    Settings,
    SettingsError,
    load_settings,
)
from lapse.store.operations.sweeps import SweepKind
from lapse.worker.tasks import SweepTask
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.commands import running_lapse
from tests.support.invariants import check_invariants
from tests.support.logs import captured_events
from tests.support.proxy import Proxy
from tests.support.sql import run_sql
from tests.support.waiting import until
from tests.support.workers import EXPIRED, IDLE, RECEIPTS, counts, in_background

AGO = timedelta(minutes=40)


def make_due(database: Database, idle: int = 3, expired: int = 2) -> None:
    insert_conversations(database, range(idle), silent_for=AGO)
    insert_conversations(database, range(1_000, 1_000 + expired), expires_in=-timedelta(minutes=1))


def broken(*_: Any) -> Any:
    """Specify a sweep that has a defect."""
    raise RuntimeError("a task that fails")


@pytest.fixture
def worker(database_url: str) -> Iterator[BackgroundWorker]:
    with closing(ConversationService(database_url)) as service:
        yield BackgroundWorker(service=service)


def test_a_task_that_fails_is_logged_and_counted_and_the_other_still_runs(
    worker: BackgroundWorker, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    make_due(database)
    runner = worker.tasks[IDLE]
    task, runner.task = runner.task, SweepTask(IDLE, [SweepKind(broken, {})], worker.conversation_service)
    worker.started_at, worker.running = datetime.now().astimezone(), True
    with captured_events() as logged:
        failed, succeeded, _ = worker.run_cycle()
    assert isinstance(failed.error, RuntimeError)
    assert (succeeded.error, succeeded.ended) == (None, 2)
    assert worker.metrics[IDLE].failed_runs == 1
    assert worker.metrics[EXPIRED].successful_runs == 1
    assert worker.metrics[EXPIRED].total_items_processed == 2
    (line,) = [line for line in logged if line["log_level"] == "error"]
    assert (line["event"], line["task"], line["error"]) == ("task failed", IDLE, str(failed.error))
    assert line["exception"].startswith("Traceback")
    assert worker.get_health_status()["status"] == "degraded"
    runner.task = task
    assert [run.task for run in worker.run_cycle()] == [EXPIRED, RECEIPTS], "a task that failed rests for a moment"
    until(lambda: not runner.is_backing_off)
    assert [run.ended for run in worker.run_cycle()] == [3, 0, 0]
    assert worker.get_health_status()["status"] == "healthy"
    assert counts(database) == {"idle_timeout": 3, "expired": 2}
    assert "Traceback" not in capsys.readouterr().err


def test_a_failing_tasks_traceback_is_in_the_log(database_url: str, database: Database) -> None:
    insert_conversations(database, range(1), expires_in=-timedelta(minutes=1))
    run_sql(database, "ALTER TABLE conversation_events RENAME COLUMN actor TO somebody")
    with running_lapse("worker", "--once", "--database-url", database_url) as running:
        lines = [running.wait_for("task failed") for _ in range(2)]
        assert running.process.wait(20) == 1
    assert [line["task"] for line in lines] == [IDLE, EXPIRED]
    for line in lines:
        assert "Traceback" in line["exception"]
        assert customer(0) not in json.dumps(line)
    assert counts(database) == {"pending": 1}


def test_one_cycle_drains_a_backlog_of_many_batches(database_url: str, database: Database) -> None:
    make_due(database, idle=25, expired=31)
    with closing(ConversationService(database_url)) as service:
        worker = BackgroundWorker(batch_size=10, service=service)
        # Idle conversations are looked at twice: by their idle checks, and by the timeout they were armed with.
        assert [(run.ended, run.batches, run.completed) for run in worker.run_cycle()][:2] == [
            (25, 4, True),
            (31, 4, True),
        ]
        assert [(run.ended, run.batches) for run in worker.run_cycle()][:2] == [(0, 2), (0, 1)]
    check_invariants(database)


def test_the_configuration_of_tasks_is_followed(worker: BackgroundWorker) -> None:
    worker.task_config[IDLE]["enabled"] = False
    worker.task_config[EXPIRED]["interval_multiplier"] = 3
    worker.task_config[RECEIPTS]["interval_multiplier"] = 6
    ran = [[run.task for run in worker.run_cycle()] for _ in range(7)]
    assert ran == [[EXPIRED, RECEIPTS], [], [], [EXPIRED], [], [], [EXPIRED, RECEIPTS]]
    worker.task_config[EXPIRED]["interval_multiplier"] = 0
    with pytest.raises(InvalidInputError, match="interval_multiplier"):
        worker.run_cycle()
    with pytest.raises(InvalidInputError, match=IDLE):
        worker.run_task("idle")
    worker.task_config = {"idle": {}}
    with pytest.raises(InvalidInputError, match=IDLE):
        worker.run_cycle()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("interval_seconds", 0),
        ("interval_seconds", 90_000),
        ("interval_seconds", float("nan")),
        ("interval_seconds", "soon"),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("max_rate", 0),
        ("max_rate", 2e6),
        ("min_wait_seconds", -1),
        ("min_wait_seconds", 90_000),
        ("backlog_limit", 1_000_000_001),
    ],
)
def test_an_argument_has_the_bounds_of_its_setting(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"^{name}=.* is not usable: "):
        BackgroundWorker(**{name: value})
    with pytest.raises(SettingsError, match=f"^{name}=.* is not usable: "):
        Settings(**{name: value})


def test_metrics_are_logged_every_ten_cycles_unless_switched_off(worker: BackgroundWorker) -> None:
    for enabled in (True, False):
        worker.enable_metrics, worker.cycle_count = enabled, 0
        with captured_events() as logged:
            for _ in range(20):
                worker.run_cycle()
        assert [line["cycle"] for line in logged if line["event"] == "metrics"] == ([10, 20] if enabled else [])
        assert len(logged) == (2 if enabled else 0), "nothing else is said when nothing happened"


@pytest.mark.alone
def test_a_conversation_ends_on_time_whatever_the_interval(database_url: str, database: Database) -> None:
    settings = load_settings(idle_timeout_minutes=2 / 60, expiration_minutes=4 / 60)
    with closing(ConversationService(database_url, settings=settings)) as service:
        worker = BackgroundWorker(3_600, service=ConversationService(database_url, settings=settings))
        with in_background(worker):
            time.sleep(0.3)
            opened = service.record_message(1, customer(1), BUSINESS)
            until(lambda: service.get_conversation_by_id(opened.conv_id).status == "expired")
        for event in service.get_conversation_events(opened.conv_id):
            assert event.deadline is not None
            lag = (event.occurred_at - event.deadline).total_seconds()
            assert 0 < lag < 1.6, f"{event.type} {lag:.2f} s late"
    check_invariants(database)


def test_a_database_that_is_away_is_waited_for(postgres_url: str) -> None:
    proxy = Proxy(postgres_url)
    with closing(Database(postgres_url)) as database, closing(proxy):
        make_due(database, idle=2, expired=1)
        with running_lapse("worker", "--interval", "1", "--database-url", proxy.url) as worker:
            pauses = [worker.wait_for("waiting for the database")["retry_in_seconds"] for _ in range(2)]
            assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1
            proxy.open()
            assert worker.wait_for("task processed")["count"] == 2
            assert worker.wait_for("task processed")["count"] == 1
            proxy.close()
            insert_conversations(database, range(500, 505), expires_in=-timedelta(minutes=1))
            worker.wait_for("waiting for the database")
            proxy.open()
            assert worker.wait_for("task processed")["count"] == 5
            assert worker.stop(15) < 1
            assert worker.process.returncode == 0
            assert worker.stderr == ""
        check_invariants(database)

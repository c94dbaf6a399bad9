"""Receipts are deleted when their time is over, piece by piece, and keep no other task waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from lapse import BackgroundWorker, ConversationService, Database, Message, load_settings
from lapse.store.operations import receipts
from lapse.worker.task import TaskResult, TaskRunner, WorkerContext
from lapse.worker.tasks import SECONDS_BETWEEN_WALKS, SECONDS_TO_FIRST_WALK, ReceiptsTask
from tests.support.clock import ManualClock
from tests.support.sql import count
from tests.support.workers import RECEIPTS

BUSINESS = "+14155238886"


@pytest.fixture
def service(database_url: str, clock: ManualClock) -> Iterator[ConversationService]:
    """Return a service that keeps receipts for two days."""
    with closing(ConversationService(database_url, settings=load_settings(receipt_days=2), clock=clock)) as opened:
        yield opened


def send(service: ConversationService, numbers: range) -> None:
    messages = [Message(1, f"+5511{900000000 + n}", BUSINESS, message_id=f"wamid.{n}") for n in numbers]
    assert all(not isinstance(result, Exception) for result in service.record_messages(messages))


def test_what_is_older_than_the_setting_goes_and_the_rest_stays(
    service: ConversationService, clock: ManualClock, database: Database
) -> None:
    send(service, range(30))
    clock.advance(minutes=48 * 60)
    send(service, range(30, 50))
    worker = BackgroundWorker(service=service)
    assert worker.run_task(RECEIPTS).deleted == 0, "at the moment itself it is not over yet"
    clock.advance(minutes=1 / 60)
    result = worker.run_task(RECEIPTS)
    assert (result.deleted, result.error, result.completed) == (30, None, True)
    assert count(database, "message_receipts") == 20
    assert count(database, "conversations") == 50
    assert worker.metrics[RECEIPTS].total_items_processed == 30
    assert service.record(Message(1, "+5511900000000", BUSINESS, message_id="wamid.0")).outcome == "opened"


def test_a_walk_goes_on_where_it_was_left(
    service: ConversationService, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    monkeypatch.setitem(receipts.PIECE, "postgresql", 1)
    monkeypatch.setitem(receipts.PIECE, "sqlite", 100)
    send(service, range(900))
    clock.advance(minutes=3 * 24 * 60)
    context, seconds = WorkerContext(), [0.0]
    task = ReceiptsTask(service, context, lambda: seconds[0])
    monkeypatch.setattr(task, "slice_seconds", 0.0)
    runner, deadlines = TaskRunner(task, context), service.next_deadlines()
    assert task.seconds_to_work(deadlines) == SECONDS_TO_FIRST_WALK
    assert runner.run(1, deadlines, 60).batches == 0, "nothing is to be done yet"
    seconds[0] = SECONDS_TO_FIRST_WALK
    deleted, runs = 0, 0
    while task.seconds_to_work(deadlines) < 0:
        result = runner.run(1, deadlines, 60)
        assert (result.batches, result.completed) == (1, True), "one piece, and the others have their turn"
        deleted, runs = deleted + result.deleted, runs + 1
    assert (deleted, count(database, "message_receipts")) == (900, 0)
    assert runs >= 9
    assert task.seconds_to_work(deadlines) == SECONDS_BETWEEN_WALKS


def test_a_run_for_once_walks_through_all(
    service: ConversationService, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    monkeypatch.setitem(receipts.PIECE, "postgresql", 1)
    monkeypatch.setitem(receipts.PIECE, "sqlite", 100)
    send(service, range(900))
    clock.advance(minutes=3 * 24 * 60)
    assert BackgroundWorker(service=service).run_once()
    assert count(database, "message_receipts") == 0


def test_a_fresh_message_is_no_copy_of_a_forgotten_one(service: ConversationService, clock: ManualClock) -> None:
    message = Message(1, "+5511900000000", BUSINESS, message_id="wamid.1")
    assert service.record(message).outcome == "opened"
    clock.now += timedelta(days=1)
    BackgroundWorker(service=service).run_task(RECEIPTS)
    assert service.record(message).outcome == "copy"


def test_a_result_counts_what_was_deleted_apart_from_what_ended() -> None:
    result = TaskResult(task=RECEIPTS, deleted=3)
    assert (result.ended, result.deleted) == (0, 3)

"""Asking for the next deadlines is a look at the ends of three indexes, however many conversations are open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest

from lapse import ConversationService, migrate
from tests.support.backlog import IDLE_TIMEOUT, insert_conversations
from tests.support.sql import run_sql
from tests.support.workers import EXPIRED, IDLE

FEW, MANY = 100, 20_000
MILLISECONDS = 0.3
"""With 20,000 open ones; it takes a quarter of that on a slow machine."""

Grown = tuple[ConversationService, dict[int, list[UUID]]]


@pytest.fixture(scope="module", params=["as it is", "analyzed"])
def grown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grown]:
    """Return a service on SQLite with many open conversations, and some ids of the first and of the last ones due."""
    with closing(ConversationService(f"sqlite:///{tmp_path_factory.mktemp('grown')}/lapse.db")) as service:
        migrate(service.database)
        ids = insert_conversations(service.database, range(MANY), step=timedelta(milliseconds=1))
        if request.param == "analyzed":
            run_sql(service.database, "ANALYZE")
        yield service, {FEW: ids[:FEW], MANY: ids[-FEW:]}


def steps_of(service: ConversationService, call: Callable[[], object]) -> int:
    """Return about how many steps SQLite's machine takes: a row that is read takes some ten."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    service.database.autocommit(lambda connection: connection.driver.set_progress_handler(count, 1))
    try:
        call()
    finally:
        service.database.autocommit(lambda connection: connection.driver.set_progress_handler(None, 0))
    return steps


def test_sqlite_reads_a_few_rows_however_many_are_open(grown: Grown) -> None:
    service, _ = grown
    assert steps_of(service, service.next_deadlines) < 500


def test_sqlite_reads_no_more_than_what_is_quarantined(grown: Grown) -> None:
    service, ids = grown
    repository = service.conversation_repo
    for some in ids.values():
        steps = steps_of(service, partial(repository.next_deadlines, IDLE_TIMEOUT, {IDLE: some, EXPIRED: some}))
        assert steps < 100 * len(some)
    some = ids[FEW]
    before, after = (repository.next_deadlines(IDLE_TIMEOUT, out) for out in ({}, {IDLE: some, EXPIRED: some}))
    for task in (IDLE, EXPIRED):
        first, later = before.due_at[task], after.due_at[task]
        assert first is not None
        assert later is not None
        assert later - first == timedelta(milliseconds=FEW)
    for out in ({}, {IDLE: some}):
        shorter = repository.next_deadlines(IDLE_TIMEOUT - timedelta(seconds=1), out)
        assert shorter.due_at[IDLE] == shorter.now - timedelta(microseconds=1), "all were armed longer than this"


def test_sqlite_answers_in_no_time(grown: Grown) -> None:
    service, _ = grown

    def seconds() -> float:
        begin = time.perf_counter()
        service.next_deadlines()
        return time.perf_counter() - begin

    assert min(seconds() for _ in range(200)) * 1000 <= MILLISECONDS

"""Races of sweeps in the form for distributed tables, without row locks, on a server told that it has such tables."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from lapse import ConversationService, Database, DatabaseUnavailableError
from lapse.store.statements import Statement, Statements
from lapse.store.table_mapping import Shape
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.concurrency import at_once, rounds, services
from tests.support.invariants import check_invariants
from tests.support.sql import run_sql
from tests.support.sweeps import sweep_expired, sweep_idle

WORKERS = 4
BACKLOG = 1_500
BATCH = 50
DAY = timedelta(days=1)
SEED = 20260105


@pytest.fixture(autouse=True)
def sweeps_sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every database take its tables for distributed, and return the sweeps that it was sent."""
    sent: list[str] = []
    bind, build = Statement.bind, Database.build

    def note(statement: Statement, values: Mapping[str, Any], *now: Any) -> dict[str, Any]:
        if "UPDATE conversations" in statement.sql and "claimed" in statement.sql:
            sent.append(statement.sql)
        return bind(statement, values, *now)

    def build_distributed(database: Database, shape: Shape | None) -> Statements:
        return build(database, shape and replace(shape, is_distributed=True))

    monkeypatch.setattr(Database, "build", build_distributed)
    monkeypatch.setattr(Statement, "bind", note)
    return sent


@pytest.fixture
def observer(postgres_url: str) -> Iterator[Database]:
    with closing(Database(postgres_url)) as database:
        yield database


Contended = dict[str, int]


def drain(service: ConversationService, task: str, contended: Contended) -> int:
    """Sweep until a look finds nothing, as a worker does: a deadlock is a reason to try again."""
    database, ended = service.database, 0
    while True:
        try:
            if task == "expired":
                result = sweep_expired(database, BATCH)
            else:
                result = sweep_idle(database, service.idle_timeout(), BATCH)
        except DatabaseUnavailableError:
            continue
        ended += result.ended
        contended[task] = contended.get(task, 0) + result.contended
        if not result.claimed:
            return ended


@pytest.mark.parametrize("task", ["idle", "expired"])
def test_workers_end_each_of_a_backlog_once(
    postgres_url: str, observer: Database, sweeps_sent: list[str], task: str
) -> None:
    ids: list[UUID] = []
    contended: Contended = {}
    due_in = -DAY if task == "expired" else DAY
    with services(postgres_url, WORKERS) as workers:
        for _ in rounds(1, lambda: contended[task] > 0):
            numbers = range(len(ids), len(ids) + BACKLOG)
            ids += insert_conversations(observer, numbers, silent_for=2 * DAY, expires_in=due_in)
            shares = at_once([partial(drain, worker, task, contended) for worker in workers])
            assert sum(shares) == BACKLOG
    events = run_sql(observer, "SELECT conv_id, version, to_status FROM conversation_events")
    assert sorted(event.conv_id for event in events) == sorted(ids)
    assert {(event.version, event.to_status) for event in events} == {(1, "idle_timeout" if task == "idle" else task)}
    check_invariants(observer)
    assert contended[task] > 0, "no two workers ever claimed the same conversation: no race"
    assert sweeps_sent
    assert not [statement for statement in sweeps_sent if "FOR NO KEY UPDATE" in statement or "now()" in statement]


def test_messages_and_both_sweeps_together_keep_every_rule(postgres_url: str, observer: Database) -> None:
    pairs = 20
    chance = random.Random(SEED)
    contended: Contended = {}

    def send(service: ConversationService, sender: str, numbers: list[int]) -> int:
        for number in numbers:
            addresses = (customer(number), BUSINESS) if sender == "user" else (BUSINESS, customer(number))
            service.record_message(1, *addresses, "sms", sender)
        return 0

    def have_raced() -> bool:
        return 0 < ended < conversations

    ended = conversations = 0
    with services(postgres_url, 5) as (customers, agents, *workers):
        for number in rounds(12, have_raced):
            numbers = range(number * pairs, (number + 1) * pairs)
            due = timedelta(minutes=-1) if number % 2 else DAY
            insert_conversations(observer, numbers, silent_for=timedelta(minutes=31), expires_in=due)
            calls: list[Callable[[], int]] = [
                partial(send, customers, "user", chance.sample(numbers, pairs)),
                partial(send, agents, "agent", chance.sample(numbers, pairs)),
                partial(drain, workers[0], "idle", contended),
                partial(drain, workers[1], "idle", contended),
                partial(drain, workers[2], "expired", contended),
            ]
            ended += sum(at_once(calls))
            conversations += pairs
    (by_worker,) = run_sql(observer, "SELECT count(*) AS events FROM conversation_events WHERE actor = 'worker'")
    assert ended == by_worker.events
    assert have_raced(), "one side always came first: no race"
    check_invariants(observer)

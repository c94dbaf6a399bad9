"""Real races on PostgreSQL: threads with connections of their own, at full speed, by the real clock."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from lapse import BackgroundWorker, Conversation, ConversationAlreadyOpenError, ConversationService, Database
from lapse.messages import OpeningSender
from lapse.models import AnyId
from tests.support.backlog import BUSINESS, IDLE_TIMEOUT, customer, insert_conversations, present
from tests.support.concurrency import at_once, rounds, services, through_one_door
from tests.support.invariants import check_invariants
from tests.support.sql import count, run_sql, transaction
from tests.support.sweeps import sweep_idle
from tests.support.workers import IDLE

ROUNDS = 40
PAIRS_PER_ROUND = 20
SEED = 20260105


@pytest.fixture
def observer(postgres_url: str) -> Iterator[Database]:
    """Return a connection beside those that race."""
    with closing(Database(postgres_url)) as database:
        yield database


@dataclass(frozen=True)
class Sent:
    """A message, the conversation that it came to, and the moments before and after by the database's clock."""

    number: int
    conversation: Conversation
    before: datetime
    after: datetime


def send_all(service: ConversationService, sender: OpeningSender, numbers: Sequence[int]) -> list[Sent]:
    sent, before = [], present(service.database)
    for number in numbers:
        addresses = (customer(number), BUSINESS) if sender == "user" else (BUSINESS, customer(number))
        conversation = service.record_message(1, *addresses, "sms", sender)
        after = present(service.database)
        sent.append(Sent(number, conversation, before, after))
        before = after
    return sent


# --- the same pair is opened at the same moment -------------------------------------------------------------------


def test_eight_writers_open_one_conversation(postgres_url: str, observer: Database) -> None:
    pairs = 25
    with services(postgres_url, 8) as writers:
        for pair in range(pairs):
            senders: list[OpeningSender] = ["user" if place % 2 else "agent" for place in range(len(writers))]
            calls = [partial(send_all, writer, sender, [pair]) for writer, sender in zip(writers, senders, strict=True)]
            answers = through_one_door(observer, calls)
            assert len({sent.conversation.conv_id for (sent,) in answers}) == 1
    assert count(observer, "conversations") == pairs
    assert run_sql(observer, "SELECT DISTINCT status FROM conversations") == [("progress",)]
    check_invariants(observer)


def test_however_it_is_opened_it_is_created_once(postgres_url: str, observer: Database) -> None:
    pairs, outcomes = 25, Counter[str]()

    def create(service: ConversationService, pair: int) -> AnyId:
        try:
            created = service.create_conversation(1, customer(pair), BUSINESS, "sms")
        except ConversationAlreadyOpenError as error:
            outcomes["refused"] += 1
            return UUID(str(error.conv_id))
        outcomes["created"] += 1
        return created.conv_id

    def get_or_create(service: ConversationService, pair: int) -> AnyId:
        return service.get_or_create_conversation(1, BUSINESS, customer(pair), "sms").conv_id

    def write(service: ConversationService, pair: int) -> AnyId:
        return service.record_message(1, customer(pair), BUSINESS, "sms").conv_id

    mixed = [create, get_or_create, write, create, get_or_create, write, create, create]
    with services(postgres_url, len(mixed)) as openers:
        for pair in range(pairs):
            created_before = outcomes["created"]
            kinds = mixed if pair % 2 else [create] * len(mixed)
            calls = [partial(kind, opener, pair) for kind, opener in zip(kinds, openers, strict=True)]
            assert len(set(through_one_door(observer, calls))) == 1
            created = outcomes["created"] - created_before
            assert created <= 1 if pair % 2 else created == 1
    assert count(observer, "conversations") == pairs
    check_invariants(observer)


# --- a message against a sweep ------------------------------------------------------------------------------------


def test_a_message_against_an_idle_sweep(postgres_url: str, observer: Database) -> None:
    chance, sent, paused, mixed_rounds = random.Random(SEED), list[Sent](), 0, 0

    def sweep(worker: ConversationService) -> int:
        return sum(worker.process_idle_conversations(limit=2) for _ in range(PAIRS_PER_ROUND))

    def has_raced() -> bool:
        return mixed_rounds > ROUNDS / 10

    with services(postgres_url, 3) as (customers, agents, worker):
        for number in rounds(ROUNDS, has_raced):
            numbers = range(number * PAIRS_PER_ROUND, (number + 1) * PAIRS_PER_ROUND)
            status = chance.choice(["pending", "progress"])
            insert_conversations(observer, numbers, silent_for=timedelta(minutes=31), status=status)
            orders = [chance.sample(numbers, PAIRS_PER_ROUND) for _ in range(2)]
            calls: list[partial[Any]] = [
                partial(send_all, customers, "user", orders[0]),
                partial(send_all, agents, "agent", orders[1]),
                partial(sweep, worker),
            ]
            by_customers, by_agents, in_this_round = at_once(calls)
            sent += by_customers + by_agents
            paused += in_this_round
            mixed_rounds += 0 < in_this_round < PAIRS_PER_ROUND
        assert worker.process_idle_conversations(limit=10_000) == 0
        left = sweep_idle(worker.database, IDLE_TIMEOUT, 10_000)
        assert left.claimed == 0, "every conversation was re-armed, by a sweep or a message"

    pauses = run_sql(observer, "SELECT conv_id, occurred_at FROM conversation_events WHERE type = 'paused'")
    assert len(pauses) == paused
    pause_of = {pause.conv_id: pause.occurred_at for pause in pauses}
    assert len(pause_of) == paused, "nothing is idle twice: the messages came within the idle timeout"
    final = {row.conv_id: row for row in run_sql(observer, "SELECT conv_id, status, updated_at FROM conversations")}
    assert len(final) == (number + 1) * PAIRS_PER_ROUND
    for message in sent:
        noted = message.conversation
        assert noted.status in {"pending", "progress"}
        assert message.before <= noted.updated_at <= final[noted.conv_id].updated_at
        # What the message left behind was not idle, so a pause can only have been under way before it was there.
        assert pause_of.get(noted.conv_id, message.before) <= message.after
    assert {row.status for row in final.values()} == {"progress"}, "the last word was not a pause"
    check_invariants(observer)
    assert has_raced(), "in nearly every round one side was done before the other began: no race"


def test_a_message_that_comes_first_is_no_refusal(postgres_url: str, observer: Database) -> None:
    """The row that a batch has claimed is a newer one then than its statement can see, and stays as it was."""
    numbers = range(400)
    insert_conversations(observer, numbers, silent_for=timedelta(minutes=31))
    run_sql(observer, "UPDATE conversations SET updated_at = now()")

    with services(postgres_url, 3) as (customers, agents, service):
        worker = BackgroundWorker(service=service, batch_size=1)
        calls: list[partial[Any]] = [
            partial(send_all, customers, "user", numbers),
            partial(send_all, agents, "agent", numbers),
            partial(worker.run_task, IDLE),
        ]
        first, second = at_once(calls)[-1], worker.run_task(IDLE)
    assert first.rearmed + second.rearmed == len(numbers)
    assert (first.refused, first.error, second.refused, second.error) == (0, None, 0, None)


class Expiries:
    """Lets conversations expire one after the other while their messages are under way, however long those take."""

    def __init__(self, observer: Database) -> None:
        self._observer = observer
        self._began = present(observer)
        self._expected = timedelta(milliseconds=80)
        """So long the messages of a round take: as they did in the one before."""

    def set(self, ids: Sequence[UUID]) -> None:
        """Let the conversations expire from now on: the first after a quarter of the messages, then the others."""
        self._began = present(self._observer)
        with transaction(self._observer) as connection:
            connection.execute(
                sa.text("UPDATE conversations SET expires_at = :moment WHERE conv_id = :conv_id"),
                [
                    {"moment": self._began + self._expected * (0.25 + place / len(ids) / 2), "conv_id": conv_id}
                    for place, conv_id in enumerate(ids)
                ],
            )

    def sweep(self, worker: ConversationService) -> int:
        """Sweep until the last one has expired; with pauses, so that messages come first, too."""
        ended = 0
        while present(worker.database) <= self._began + self._expected * 0.75:
            ended += worker.process_expired_conversations(limit=2)
            time.sleep(self._expected.total_seconds() / 20)
        return ended

    def learn(self, sent: Sequence[Sent]) -> None:
        """Take note of how long a round's messages took."""
        self._expected = max(message.after for message in sent) - self._began


def test_a_message_against_an_expiry_sweep(postgres_url: str, observer: Database) -> None:
    chance, sent, swept = random.Random(SEED), list[Sent](), 0
    originals: dict[int, UUID] = {}

    def ended_by() -> Counter[str]:
        events = run_sql(observer, "SELECT actor FROM conversation_events WHERE type = 'expired'")
        return Counter("worker" if event.actor == "worker" else "message" for event in events)

    def has_raced() -> bool:
        late = sum(message.conversation.conv_id != originals[message.number] for message in sent)
        return min(ended_by()["worker"], ended_by()["message"]) > ROUNDS and len(sent) > late > ROUNDS

    with services(postgres_url, 3) as (customers, agents, worker):
        expiries = Expiries(observer)
        for number in rounds(ROUNDS, has_raced):
            numbers = range(number * PAIRS_PER_ROUND, (number + 1) * PAIRS_PER_ROUND)
            ids = insert_conversations(observer, numbers)
            originals |= zip(numbers, ids, strict=True)
            calls: list[partial[Any]] = [
                partial(send_all, customers, "user", [*numbers, *chance.sample(numbers, PAIRS_PER_ROUND)]),
                partial(send_all, agents, "agent", chance.sample(numbers, PAIRS_PER_ROUND)),
                partial(expiries.sweep, worker),
            ]
            by_customers, by_agents, in_this_round = at_once(calls, start=partial(expiries.set, ids))
            expiries.learn(by_customers + by_agents)
            sent += by_customers + by_agents
            swept += in_this_round
        swept += worker.process_expired_conversations(limit=10_000)

    expired = run_sql(observer, "SELECT conv_id FROM conversation_events WHERE type = 'expired'")
    assert len(expired) == len(originals), "one event for each"
    assert {event.conv_id for event in expired} == set(originals.values())
    assert ended_by()["worker"] == swept
    expiry = {row.conv_id: row.expires_at for row in run_sql(observer, "SELECT conv_id, expires_at FROM conversations")}
    came_late = set()
    for message in sent:
        original, noted = originals[message.number], message.conversation
        assert message.before <= noted.updated_at <= noted.expires_at
        if noted.conv_id != original:
            assert noted.expires_at > expiry[original] + timedelta(hours=23)
            came_late.add(message.number)
        else:
            assert message.before <= expiry[original], "a message after the expiry came to the old conversation"
    openings = run_sql(observer, "SELECT session_key FROM conversations WHERE status IN ('pending', 'progress')")
    assert len(openings) == len(came_late), "a new conversation for each pair that was heard of after the expiry"
    assert count(observer, "conversations") == len(originals) + len(came_late)
    check_invariants(observer)
    assert has_raced(), f"one side always came first: no race ({ended_by()})"


# --- two workers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["idle", "expired"])
def test_two_workers_end_each_of_a_backlog_once(postgres_url: str, observer: Database, task: str) -> None:
    backlog, day = 3_000, timedelta(days=1)
    expires_in = -day if task == "expired" else day
    ids, shares = list[UUID](), [0, 0]

    def drain(worker: ConversationService) -> int:
        sweep = worker.process_idle_conversations if task == "idle" else worker.process_expired_conversations
        total = 0
        while ended := sweep(limit=50):
            assert ended <= 50
            total += ended
        return total

    def have_raced() -> bool:
        return min(shares) > 0

    with services(postgres_url, 2) as workers:
        for _ in rounds(1, have_raced):
            numbers = range(len(ids), len(ids) + backlog)
            ids += insert_conversations(observer, numbers, silent_for=2 * day, expires_in=expires_in)
            shares = at_once([partial(drain, worker) for worker in workers])
            assert sum(shares) == backlog
    assert have_raced(), "one worker did everything: no race"
    events = run_sql(observer, "SELECT conv_id, version, to_status FROM conversation_events")
    assert sorted(event.conv_id for event in events) == sorted(ids)
    assert {(event.version, event.to_status) for event in events} == {(1, "idle_timeout" if task == "idle" else task)}
    check_invariants(observer)

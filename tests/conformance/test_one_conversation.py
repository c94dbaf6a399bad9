"""One conversation: opening, closing, extending, reading."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest

from lapse import (
    ConversationAlreadyOpenError,
    ConversationChangedError,
    ConversationExpiredError,
    ConversationNotFoundError,
    ConversationService,
    ConversationStatus,
    InvalidInputError,
    InvalidTransitionError,
    NaiveDatetimeError,
)
from lapse.store.operations.conversations import get_by_id
from tests.support.clock import ManualClock
from tests.support.sql import count

CUSTOMER, BUSINESS = "+5511999999999", "+14155238886"
CLOSED = ["agent_closed", "support_closed", "user_closed", "expired", "failed"]
TICK = timedelta(microseconds=1)


def test_creating_a_second_open_conversation_names_the_first(service: ConversationService) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS, user_id=3, metadata={"a": 1}, context={"b": 2})
    assert (opened.status, opened.user_id, opened.metadata, opened.context) == ("pending", 3, {"a": 1}, {"b": 2})
    with pytest.raises(ConversationAlreadyOpenError) as caught:
        service.create_conversation(1, BUSINESS, CUSTOMER, sender="agent")
    assert caught.value.conv_id == opened.conv_id
    assert CUSTOMER not in str(caught.value)
    assert service.get_conversation_by_id(opened.conv_id) == opened
    service.close_conversation(opened.conv_id, "user_closed")
    assert service.create_conversation(1, CUSTOMER, BUSINESS, sender="agent").status == "progress"


def test_get_or_create_returns_the_open_conversation_untouched(
    service: ConversationService, clock: ManualClock
) -> None:
    opened = service.get_or_create_conversation(1, CUSTOMER, BUSINESS)
    clock.advance(minutes=5)
    assert service.get_or_create_conversation(1, BUSINESS, CUSTOMER, sender="agent") == opened
    clock.advance(minutes=26)
    assert service.process_idle_conversations() == 1
    assert service.get_or_create_conversation(1, CUSTOMER, BUSINESS).status == "idle_timeout"
    assert count(service.database, "conversations") == 1


@pytest.mark.parametrize("call", ["create_conversation", "get_or_create_conversation"])
def test_opening_where_the_old_one_has_expired_ends_that_first(
    service: ConversationService, clock: ManualClock, call: str
) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    clock.now = opened.expires_at + TICK
    following = getattr(service, call)(1, CUSTOMER, BUSINESS)
    assert following.conv_id != opened.conv_id
    assert service.get_conversation_by_id(opened.conv_id).status == "expired"
    (event,) = service.get_conversation_events(opened.conv_id)
    assert (event.type, event.deadline, event.occurred_at) == ("expired", opened.expires_at, clock.now)


@pytest.mark.parametrize("status", CLOSED)
@pytest.mark.parametrize("before", ["pending", "progress", "idle_timeout"])
def test_closing_ends_an_open_conversation(
    service: ConversationService, clock: ManualClock, before: str, status: str
) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS, sender="user" if before == "pending" else "agent")
    if before == "idle_timeout":
        clock.advance(minutes=31)
        service.process_idle_conversations()
    now = clock.advance(minutes=1)
    closed = service.close_conversation(str(opened.conv_id), status, reason="pedido resolvido", actor="agent:ana")
    assert (closed.status, closed.ended_at, closed.updated_at) == (status, now, opened.updated_at)
    assert service.get_conversation_by_id(opened.conv_id) == closed
    event = service.get_conversation_events(opened.conv_id)[-1]
    assert (event.from_status, event.to_status, event.version) == (before, status, closed.version)
    assert event.type == {"expired": "expired", "failed": "failed"}.get(status, "closed")
    assert (event.reason, event.actor, event.occurred_at) == ("pedido resolvido", "agent:ana", now)


@pytest.mark.parametrize("first", CLOSED)
@pytest.mark.parametrize("second", CLOSED)
def test_closing_twice_is_an_error_that_names_both_statuses(
    service: ConversationService, clock: ManualClock, first: str, second: str
) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    closed = service.close_conversation(opened.conv_id, ConversationStatus(first))
    clock.advance(minutes=1)
    with pytest.raises(InvalidTransitionError) as caught:
        service.close_conversation(opened.conv_id, second)
    assert (caught.value.from_status, caught.value.to_status) == (first, second)
    assert service.get_conversation_by_id(opened.conv_id) == closed
    assert len(service.get_conversation_events(opened.conv_id)) == 1


@pytest.mark.parametrize("status", ["pending", "progress", "idle_timeout", "closed", ""])
def test_closing_with_a_status_that_closes_nothing_is_an_error(service: ConversationService, status: str) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    with pytest.raises(InvalidInputError, match="does not close"):
        service.close_conversation(opened.conv_id, status)
    assert service.get_conversation_by_id(opened.conv_id) == opened


def test_what_has_expired_can_be_closed_until_the_sweep(service: ConversationService, clock: ManualClock) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    clock.now = opened.expires_at + TICK
    assert service.close_conversation(opened.conv_id, "agent_closed").status == "agent_closed"
    assert service.process_expired_conversations() == 0


def test_nothing_is_closed_unseen(service: ConversationService, clock: ManualClock) -> None:
    read = service.record_message(1, CUSTOMER, BUSINESS)
    clock.advance(seconds=1)
    changed = service.record_message(1, CUSTOMER, BUSINESS)
    with pytest.raises(ConversationChangedError, match="read it again") as caught:
        service.close_conversation(read.conv_id, "agent_closed", if_updated_at=read.updated_at)
    assert CUSTOMER not in str(caught.value)
    with pytest.raises(ConversationChangedError):
        service.close_conversation(read.conv_id, "failed", if_updated_at=changed.updated_at - TICK, owner_id=1)
    assert service.get_conversation_by_id(read.conv_id) == changed
    assert service.get_conversation_events(read.conv_id) == []
    in_brazil = changed.updated_at.astimezone(timezone(timedelta(hours=-3)))
    assert service.close_conversation(read.conv_id, "agent_closed", if_updated_at=in_brazil).status == "agent_closed"


def test_what_is_no_activity_does_not_keep_from_closing(service: ConversationService, clock: ManualClock) -> None:
    read = service.record_message(1, CUSTOMER, BUSINESS)
    clock.advance(minutes=31)
    assert service.process_idle_conversations() == 1
    service.update_conversation(read.conv_id, context={"seen": True})
    service.extend_expiration(read.conv_id)
    closed = service.close_conversation(read.conv_id, "agent_closed", if_updated_at=read.updated_at)
    assert (closed.status, closed.updated_at) == ("agent_closed", read.updated_at)


def test_what_has_ended_is_that_whatever_its_activity(service: ConversationService, clock: ManualClock) -> None:
    read = service.record_message(1, CUSTOMER, BUSINESS)
    clock.advance(seconds=1)
    service.record_message(1, CUSTOMER, BUSINESS)
    service.close_conversation(read.conv_id, "user_closed")
    with pytest.raises(InvalidTransitionError):
        service.close_conversation(read.conv_id, "agent_closed", if_updated_at=read.updated_at)
    with pytest.raises(NaiveDatetimeError):
        service.close_conversation(read.conv_id, "agent_closed", if_updated_at=datetime(2026, 1, 5))  # noqa: DTZ001


def test_an_expiry_moves_by_minutes_or_to_a_moment(service: ConversationService, clock: ManualClock) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    first = service.extend_expiration(opened.conv_id, 90.5)
    assert first.expires_at == opened.expires_at + timedelta(minutes=90.5)
    second = service.extend_expiration(opened.conv_id)
    assert second.expires_at == first.expires_at + timedelta(minutes=1440)
    until = second.expires_at + timedelta(days=3)
    third = service.extend_expiration(opened.conv_id, until=until)
    assert (third.expires_at, third.updated_at, third.version) == (until, opened.updated_at, 0)
    assert service.get_conversation_events(opened.conv_id) == []
    clock.now = until
    assert service.process_expired_conversations() == 0
    clock.now += TICK
    assert service.process_expired_conversations() == 1


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf"), 6_000_000])
def test_an_expiry_only_moves_later_and_within_ten_years(service: ConversationService, minutes: float) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    with pytest.raises(InvalidInputError, match="extend"):
        service.extend_expiration(opened.conv_id, minutes)
    with pytest.raises(InvalidInputError, match="later"):
        service.extend_expiration(opened.conv_id, until=opened.expires_at - TICK)
    with pytest.raises(InvalidInputError, match="not both"):
        service.extend_expiration(opened.conv_id, 5, until=opened.expires_at)
    with pytest.raises(NaiveDatetimeError):
        service.extend_expiration(opened.conv_id, until=datetime(2027, 1, 1))  # noqa: DTZ001 - the error under test
    assert service.get_conversation_by_id(opened.conv_id) == opened


def test_what_has_ended_or_expired_cannot_be_extended(service: ConversationService, clock: ManualClock) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    clock.now = opened.expires_at
    assert service.extend_expiration(opened.conv_id, 1).expires_at == opened.expires_at + timedelta(minutes=1)
    clock.advance(minutes=2)
    with pytest.raises(ConversationExpiredError):
        service.extend_expiration(opened.conv_id, 60)
    assert service.process_expired_conversations() == 1
    with pytest.raises(InvalidTransitionError, match="expired"):
        service.extend_expiration(opened.conv_id, 60)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_conversation_by_id", {}),
        ("get_conversation_events", {}),
        ("extend_expiration", {"minutes": 5}),
        ("close_conversation", {"status": "failed"}),
    ],
)
def test_a_conversation_that_is_not_there_is_an_error(
    service: ConversationService, method: str, arguments: dict[str, Any]
) -> None:
    call = getattr(service, method)
    there = service.create_conversation(1, CUSTOMER, BUSINESS)
    with pytest.raises(ConversationNotFoundError):
        call(uuid4(), **arguments)
    with pytest.raises(ConversationNotFoundError):
        call(there.conv_id, **arguments, owner_id=2)
    with pytest.raises(InvalidInputError, match="UUID"):
        call("12345", **arguments)
    call(there.conv_id, **arguments, owner_id=1)


def test_the_operation_answers_none_for_what_is_not_there(service: ConversationService) -> None:
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    assert service.database.run(get_by_id, UUID(int=1), None) is None
    assert service.database.run(get_by_id, opened.conv_id, 2) is None
    assert service.database.run(get_by_id, opened.conv_id, 1) == opened

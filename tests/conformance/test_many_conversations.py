"""Questions about many conversations: an owner's active ones, a pair's history, totals for people."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lapse import ConversationService, InvalidInputError
from lapse.store.operations.conversations import is_empty
from tests.support.clock import ManualClock

CUSTOMER, BUSINESS = "+5511999999999", "+14155238886"
IDLE, EXPIRED = "idle_conversations", "expired_conversations"


def test_active_conversations_are_an_owners_latest_first(service: ConversationService, clock: ManualClock) -> None:
    numbers = [f"+55119999999{digit:02}" for digit in range(10)]
    opened = []
    for number in numbers:
        clock.advance(minutes=1)
        opened.append(service.record_message(1, number, BUSINESS).conv_id)
    service.record_message(2, CUSTOMER, BUSINESS)
    service.close_conversation(opened[0], "user_closed")
    clock.advance(minutes=20.5)
    assert service.process_idle_conversations(idle_minutes=28) == 1, "the second one"
    service.record_message(1, BUSINESS, numbers[2], sender="agent")
    expected = [opened[2], *reversed(opened[3:])]
    assert [found.conv_id for found in service.get_active_conversations(1)] == expected
    assert [found.conv_id for found in service.get_active_conversations(1, limit=3)] == expected[:3]
    assert service.get_active_conversations(3) == []


def test_what_is_past_its_expiry_is_not_active(service: ConversationService, clock: ManualClock) -> None:
    first = service.record_message(1, CUSTOMER, BUSINESS)
    clock.advance(minutes=1)
    second = service.record_message(1, CUSTOMER, "+14155238887")
    clock.now = first.expires_at
    assert service.get_active_conversations(1) == [second, first], "at the deadline itself nothing has passed"
    clock.now += timedelta(microseconds=1)
    assert service.get_active_conversations(1) == [second], "though no worker came"
    assert service.get_active_conversations(1, limit=1) == [second]
    clock.now += timedelta(days=2)
    assert service.get_active_conversations(1) == []
    assert {found.status for found in service.find_expired_conversations()} == {"pending"}


def test_the_history_of_a_pair_is_the_same_from_both_sides(service: ConversationService, clock: ManualClock) -> None:
    opened = []
    for _ in range(5):
        conversation = service.record_message(1, CUSTOMER, BUSINESS)
        opened.append(conversation.conv_id)
        clock.advance(minutes=1)
        service.close_conversation(conversation.conv_id, "user_closed")
    service.record_message(1, CUSTOMER, BUSINESS, "sms")
    service.record_message(2, CUSTOMER, BUSINESS)
    newest_first = list(reversed(opened))
    for pair in ((CUSTOMER, BUSINESS), (BUSINESS, f"whatsapp:{CUSTOMER}")):
        assert [found.conv_id for found in service.get_conversation_history(1, *pair)] == newest_first
        assert [found.conv_id for found in service.get_conversation_history(1, *pair, limit=2)] == newest_first[:2]
    assert service.get_conversation_history(1, CUSTOMER, "+14155238887") == []


def test_conversations_of_one_moment_keep_their_order_in_the_history(service: ConversationService) -> None:
    opened = []
    for _ in range(4):
        conversation = service.record_message(1, CUSTOMER, BUSINESS)
        opened.append(conversation.conv_id)
        service.close_conversation(conversation.conv_id, "user_closed")
    history = service.get_conversation_history(1, CUSTOMER, BUSINESS)
    assert [found.conv_id for found in history] == list(reversed(opened))


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_a_limit_is_one_to_ten_thousand(service: ConversationService, limit: int) -> None:
    calls = (
        lambda: service.get_active_conversations(1, limit),
        lambda: service.get_conversation_history(1, CUSTOMER, BUSINESS, limit=limit),
        lambda: service.find_idle_conversations(limit=limit),
        lambda: service.find_expired_conversations(limit),
        lambda: service.process_idle_conversations(limit=limit),
        lambda: service.process_expired_conversations(limit),
    )
    for call in calls:
        with pytest.raises(InvalidInputError, match="limit"):
            call()


def due(idle: int, expired: int) -> dict[str, int]:
    return {IDLE: idle, EXPIRED: expired}


def test_totals_count_what_is_open_and_due(service: ConversationService, clock: ManualClock) -> None:
    repository, timeout = service.conversation_repo, timedelta(minutes=30)
    assert service.database.run(is_empty)
    assert repository.count_open_by_status() == {"pending": 0, "progress": 0, "idle_timeout": 0}
    assert repository.count_due(timeout) == due(0, 0)
    old = [service.record_message(1, f"+55119999999{digit:02}", BUSINESS) for digit in range(4)]
    clock.advance(minutes=31)
    assert service.process_idle_conversations(limit=1) == 1
    service.close_conversation(old[3].conv_id, "user_closed")
    service.record_message(1, CUSTOMER, "+14155238887", sender="agent")
    assert not service.database.run(is_empty)
    assert repository.count_open_by_status() == {"pending": 2, "progress": 1, "idle_timeout": 1}
    assert repository.count_due(timeout) == due(2, 0)
    assert repository.count_due(timedelta(minutes=32)) == due(0, 0)
    clock.advance(minutes=1440 - 30)
    assert repository.count_due(timeout) == due(1, 3), "what has expired is not idle as well"


def test_the_next_deadlines_are_the_earliest_ones(service: ConversationService, clock: ManualClock) -> None:
    nothing = service.next_deadlines()
    assert (nothing.due_at, nothing.earliest, nothing.now) == ({IDLE: None, EXPIRED: None}, None, clock.now)
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    clock.advance(minutes=1)
    service.record_message(1, CUSTOMER, "+14155238887")
    found = service.next_deadlines()
    assert found.due_at == {IDLE: opened.idle_check_at, EXPIRED: opened.expires_at}
    assert (found.earliest, found.now) == (opened.idle_check_at, clock.now)
    clock.advance(minutes=60)
    assert service.process_idle_conversations() == 2
    after = service.next_deadlines()
    assert (after.due_at[IDLE], after.earliest) == (None, opened.expires_at)

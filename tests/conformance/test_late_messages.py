"""Messages that come late, in any order: what the rules say (tests/unit/test_effects.py) is what the databases hold."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from lapse import Conversation, ConversationService, Message
from tests.support.clock import ManualClock

CUSTOMER, BUSINESS = "+5511990000001", "+14155238886"
TIMES = ("updated_at", "last_inbound_at", "last_outbound_at", "first_answered_at")


def recorded(service: ConversationService, sent_at: datetime | None, sender: str = "user") -> Any:
    return service.record(Message(1, CUSTOMER, BUSINESS, sender=sender, sent_at=sent_at))


def test_after_an_outage_what_would_be_idle_again_stays_paused(
    service: ConversationService, clock: ManualClock
) -> None:
    noon = clock.now
    opened = recorded(service, None).conversation
    clock.advance(minutes=31)
    assert service.process_idle_conversations() == 1
    clock.advance(minutes=149)
    late = recorded(service, noon + timedelta(minutes=5))
    assert late.outcome == "late"
    assert (late.conversation.conv_id, late.conversation.status) == (opened.conv_id, "idle_timeout")
    assert late.conversation.last_inbound_at == noon + timedelta(minutes=5)
    assert service.get_conversation_by_id(opened.conv_id) == late.conversation


def test_a_late_message_in_time_to_bring_it_back_does(service: ConversationService, clock: ManualClock) -> None:
    noon = clock.now
    recorded(service, None)
    clock.advance(minutes=31)
    assert service.process_idle_conversations() == 1
    back = recorded(service, noon + timedelta(minutes=29))
    assert (back.outcome, back.conversation.status) == ("reactivated", "pending")
    clock.now = noon + timedelta(minutes=59)
    assert service.process_idle_conversations() == 0
    clock.advance(minutes=1)
    assert service.process_idle_conversations() == 1


@pytest.mark.parametrize("is_known", [True, False])
def test_an_active_one_takes_the_time_at_which_it_was_sent(
    service: ConversationService, clock: ManualClock, is_known: bool
) -> None:
    opened = recorded(service, None).conversation
    if is_known:
        recorded(service, None)  # the statement for pairs that are known
    sent_at = clock.now + timedelta(minutes=3)
    clock.advance(minutes=10)
    late = recorded(service, sent_at)
    assert (late.outcome, late.conversation.updated_at, late.conversation.conv_id) == (
        "continued",
        sent_at,
        opened.conv_id,
    )
    ahead = recorded(service, clock.now + timedelta(hours=3))
    assert (ahead.outcome, ahead.conversation.updated_at) == ("continued", clock.now)


def test_what_would_have_expired_by_now_is_not_opened(service: ConversationService, clock: ManualClock) -> None:
    late = recorded(service, clock.now - timedelta(days=1, seconds=1))
    assert (late.outcome, late.conversation) == ("late", None)
    opened = recorded(service, clock.now - timedelta(days=1))
    assert (opened.outcome, opened.conversation.expires_at) == ("opened", clock.now)
    assert opened.conversation.idle_check_at == clock.now - timedelta(days=1) + timedelta(minutes=30)


def test_a_late_message_of_an_ended_conversation_is_that_ones(service: ConversationService, clock: ManualClock) -> None:
    noon = clock.now
    opened = recorded(service, None).conversation
    clock.advance(minutes=10)
    service.close_conversation(opened.conv_id, "agent_closed")
    clock.advance(minutes=10)
    late = recorded(service, noon + timedelta(minutes=5))
    assert (late.outcome, late.conversation.conv_id, late.conversation.status) == (
        "late",
        opened.conv_id,
        "agent_closed",
    )
    stored = service.get_conversation_by_id(opened.conv_id)
    assert (stored.last_inbound_at, stored.ended_at) == (noon + timedelta(minutes=5), noon + timedelta(minutes=10))
    following = recorded(service, None)
    assert (following.outcome, following.conversation.conv_id != opened.conv_id) == ("opened", True)
    answer = recorded(service, noon + timedelta(minutes=6), "agent")
    assert (answer.outcome, answer.conversation.conv_id) == ("late", opened.conv_id)
    assert service.get_conversation_by_id(following.conversation.conv_id).status == "pending"


def test_what_had_expired_and_is_found_by_a_late_message(service: ConversationService, clock: ManualClock) -> None:
    opened = recorded(service, None).conversation
    clock.now = opened.expires_at + timedelta(minutes=5)
    late = recorded(service, opened.expires_at - timedelta(minutes=5))
    assert (late.outcome, late.expired_conv_id, late.conversation.conv_id) == ("late", opened.conv_id, opened.conv_id)
    assert (late.conversation.status, late.conversation.last_inbound_at) == (
        "expired",
        opened.expires_at - timedelta(minutes=5),
    )
    after = recorded(service, opened.expires_at + timedelta(minutes=1))
    assert (after.outcome, after.expired_conv_id) == ("opened", None)


@pytest.mark.parametrize("is_list", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_arrival_gives_the_same_conversation(
    service: ConversationService, clock: ManualClock, seed: int, is_list: bool
) -> None:
    chance = random.Random(seed)
    begin = clock.now
    sent = [
        Message(
            1, CUSTOMER, BUSINESS, sender=sender, message_id=f"m{number}", sent_at=begin + timedelta(minutes=minutes)
        )
        for number, (sender, minutes) in enumerate(
            (chance.choice(["user", "agent", "support", "bot", "system"]), chance.randrange(200)) for _ in range(8)
        )
    ]
    clock.advance(minutes=220)

    def arrived(owner: int, order: list[Message]) -> list[Any]:
        messages = [Message(owner, *_arguments(message), **_options(message)) for message in order]
        if is_list:
            service.record_messages(messages)
        else:
            for message in messages:
                service.record(message)
        (conversation,) = service.get_conversation_history(owner, CUSTOMER, BUSINESS)
        return [getattr(conversation, name) for name in TIMES]

    expected = arrived(1, sorted(sent, key=lambda message: message.sent_at or begin))
    for owner in range(2, 6):
        chance.shuffle(sent)
        assert arrived(owner, sent) == expected


def _arguments(message: Message) -> tuple[str, str, str | None, str]:
    return message.from_number, message.to_number, message.channel, message.sender


def _options(message: Message) -> dict[str, Any]:
    return {"message_id": message.message_id, "sent_at": message.sent_at}


def test_the_times_of_the_customer_and_of_your_side(service: ConversationService, clock: ManualClock) -> None:
    opened: Conversation = recorded(service, None).conversation
    clock.advance(minutes=1)
    recorded(service, None, "bot")
    clock.advance(minutes=1)
    answered = recorded(service, None, "support").conversation
    assert (answered.last_inbound_at, answered.last_outbound_at, answered.first_answered_at) == (
        opened.started_at,
        clock.now,
        clock.now,
    )
    clock.advance(minutes=1)
    recorded(service, opened.started_at + timedelta(seconds=30), "agent")
    assert service.get_conversation_by_id(opened.conv_id).first_answered_at == opened.started_at + timedelta(seconds=30)

"""Messages: what opens a conversation, keeps it alive, answers it, brings it back or finds it expired."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lapse import (
    ConversationService,
    InvalidAddressError,
    InvalidInputError,
    InvalidTransitionError,
    Message,
    SameAddressError,
    load_settings,
)
from lapse.messages import OpeningSender
from tests.conftest import OpenService
from tests.support.clock import ManualClock
from tests.support.sql import count

CUSTOMER, BUSINESS = "+5511999999999", "+14155238886"
SIDES: list[OpeningSender] = ["user", "agent", "support", "bot"]
ANSWERING = ["agent", "support"]
TICK = timedelta(microseconds=1)


def types_of(service: ConversationService, conv_id: Any) -> list[str]:
    return [event.type.value for event in service.get_conversation_events(conv_id)]


@pytest.mark.parametrize("sender", SIDES)
def test_a_first_message_opens_a_conversation(
    service: ConversationService, clock: ManualClock, sender: OpeningSender
) -> None:
    opened = service.record_message(
        7,
        "whatsapp:+55 (11) 99999-9999",
        BUSINESS,
        "WhatsApp ",
        sender,
        user_id=42,
        context={"flow": "olá", "depth": [1, {"a": None}]},
        metadata={"campaign": "ç"},
    )
    assert opened.owner_id == 7
    assert (opened.channel, opened.session_key) == ("whatsapp", f"{BUSINESS}::{CUSTOMER}")
    assert (opened.from_number, opened.to_number) == (CUSTOMER, BUSINESS)
    assert opened.status == ("pending" if sender == "user" else "progress")
    assert (opened.version, opened.user_id, opened.ended_at) == (0, 42, None)
    assert opened.started_at == opened.updated_at == clock.now
    assert opened.last_inbound_at == (clock.now if sender == "user" else None)
    assert opened.expires_at == clock.now + timedelta(minutes=1440)
    assert opened.idle_check_at == clock.now + timedelta(minutes=30)
    assert opened.context == {"flow": "olá", "depth": [1, {"a": None}]}
    assert opened.metadata == {"campaign": "ç"}
    assert service.get_conversation_by_id(opened.conv_id) == opened
    assert service.get_conversation_events(opened.conv_id) == []
    assert opened.started_at.tzinfo is UTC


@pytest.mark.parametrize("first", SIDES)
@pytest.mark.parametrize("second", SIDES)
def test_a_second_message_is_activity_and_perhaps_an_answer(
    service: ConversationService, clock: ManualClock, first: OpeningSender, second: OpeningSender
) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS, sender=first)
    now = clock.advance(minutes=3)
    after = service.record_message(1, BUSINESS, CUSTOMER, sender=second)
    assert after.conv_id == opened.conv_id
    assert after.status == ("pending" if first == "user" and second not in ANSWERING else "progress")
    assert after.last_outbound_at == (now if second != "user" else opened.last_outbound_at)
    assert after.first_answered_at == (opened.first_answered_at or (now if second in ANSWERING else None))
    assert after.updated_at == now
    assert after.last_inbound_at == (now if second == "user" else opened.last_inbound_at)
    assert (after.expires_at, after.started_at) == (opened.expires_at, opened.started_at)
    assert after.idle_check_at == opened.idle_check_at, "a message must not touch an indexed column"
    assert (after.from_number, after.to_number) == (CUSTOMER, BUSINESS)
    moved = opened.status != after.status
    assert after.version == (1 if moved else 0)
    (event,) = service.get_conversation_events(after.conv_id) if moved else (None,)
    if event is not None:
        assert (event.type, event.from_status, event.to_status) == ("activated", "pending", "progress")
        assert (event.version, event.reason, event.actor) == (1, "message", second)
        assert (event.occurred_at, event.deadline, event.data) == (now, None, {})


def test_later_messages_keep_what_the_first_one_brought(service: ConversationService) -> None:
    service.record_message(1, CUSTOMER, BUSINESS, user_id=5, context={"a": 1}, metadata={"b": 2})
    after = service.record_message(1, CUSTOMER, BUSINESS, user_id=6, context={"a": 9}, metadata={})
    assert (after.user_id, after.context, after.metadata) == (5, {"a": 1}, {"b": 2})


@pytest.mark.parametrize("sender", SIDES)
@pytest.mark.parametrize("first", ["user", "agent"])
def test_activity_brings_a_paused_conversation_back(
    service: ConversationService, clock: ManualClock, sender: OpeningSender, first: OpeningSender
) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS, sender=first)
    clock.advance(minutes=31)
    assert service.process_idle_conversations() == 1
    paused = service.get_conversation_by_id(opened.conv_id)
    assert (paused.status, paused.ended_at) == ("idle_timeout", None)
    now = clock.advance(minutes=1)
    back = service.record_message(1, CUSTOMER, BUSINESS, sender=sender)
    status = "progress" if {first, sender} & set(ANSWERING) else "pending"
    assert (back.conv_id, back.status, back.version, back.updated_at) == (opened.conv_id, status, 2, now)
    assert back.idle_check_at == now + timedelta(minutes=30)
    assert types_of(service, back.conv_id) == ["paused", "reactivated"]
    clock.advance(minutes=31)
    assert service.process_idle_conversations() == 1


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_notice_changes_nothing_and_opens_nothing(
    service: ConversationService, clock: ManualClock, is_paused: bool
) -> None:
    assert service.record_message(1, BUSINESS, CUSTOMER, sender="system") is None
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    if is_paused:
        clock.advance(minutes=31)
        assert service.process_idle_conversations() == 1
    before = service.get_conversation_by_id(opened.conv_id)
    clock.advance(minutes=1)
    assert service.record_message(1, BUSINESS, CUSTOMER, sender="system") == before
    assert service.get_conversation_by_id(opened.conv_id) == before


def test_closing_notes_open_no_next_conversation(service: ConversationService, clock: ManualClock) -> None:
    service.record_message(1, CUSTOMER, BUSINESS)
    for _ in range(6):
        clock.advance(minutes=24 * 60 + 1)
        service.process_expired_conversations()
        assert service.record_message(1, BUSINESS, CUSTOMER, sender="system") is None
    assert len(service.get_conversation_history(1, CUSTOMER, BUSINESS)) == 1


def test_a_message_that_may_not_open_finds_what_is_open(service: ConversationService) -> None:
    assert service.record_message(1, CUSTOMER, BUSINESS, opens=False) is None
    notice = service.record(Message(1, BUSINESS, CUSTOMER, sender="system", opens=True))
    assert notice.outcome == "opened"
    assert notice.conversation is not None
    found = service.record_message(1, CUSTOMER, BUSINESS, opens=False)
    assert found is not None
    assert (found.conv_id, found.status) == (notice.conversation.conv_id, "progress")


def test_the_next_conversation_knows_when_the_customer_last_wrote(
    service: ConversationService, clock: ManualClock
) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    last = clock.advance(minutes=24 * 60 - 10)
    service.record_message(1, CUSTOMER, BUSINESS)
    clock.advance(minutes=15)
    result = service.record(Message(1, BUSINESS, CUSTOMER, sender="agent"))
    assert (result.outcome, result.expired_conv_id) == ("opened", opened.conv_id)
    assert result.conversation is not None
    assert (result.conversation.last_inbound_at, result.conversation.opened_by) == (last, "agent")
    assert (result.conversation.customer_address, result.conversation.business_address) == (CUSTOMER, BUSINESS)


@pytest.mark.parametrize(
    ("from_number", "to_number", "channel"),
    [
        ("sms:+5511999999999", BUSINESS, "sms"),
        (CUSTOMER, "sms:+14155238886", "sms"),
        ("messenger:7001", "messenger:7002", "messenger"),
        ("rcs:+5511999999999", "rcs:acme", "rcs"),
        ("WhatsApp:+5511999999999", BUSINESS, "whatsapp"),
        (CUSTOMER, BUSINESS, "whatsapp"),
        ("tel:+5511999999999", BUSINESS, "whatsapp"),
    ],
)
def test_the_scheme_says_the_channel_where_nobody_else_does(
    service: ConversationService, from_number: str, to_number: str, channel: str
) -> None:
    opened = service.record_message(1, from_number, to_number)
    assert opened.channel == channel
    assert service.get_conversation_history(1, to_number, from_number) == [opened]
    assert service.record_message(1, from_number, to_number, "whatsapp").channel == "whatsapp"


def test_schemes_of_two_channels_are_an_error(service: ConversationService) -> None:
    with pytest.raises(InvalidInputError, match="two channels, sms and whatsapp"):
        service.record_message(1, "sms:+5511999999999", "whatsapp:+14155238886")


def test_a_message_in_the_very_moment_of_expiry_is_in_time(service: ConversationService, clock: ManualClock) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    clock.now = opened.expires_at
    assert service.record_message(1, CUSTOMER, BUSINESS).conv_id == opened.conv_id
    clock.now += TICK
    following = service.record_message(1, CUSTOMER, BUSINESS)
    assert following.conv_id != opened.conv_id
    assert (following.status, following.started_at) == ("pending", clock.now)


@pytest.mark.parametrize("is_paused", [False, True])
@pytest.mark.parametrize("sender", SIDES)
def test_a_message_after_expiry_opens_a_new_conversation(
    service: ConversationService, clock: ManualClock, sender: OpeningSender, is_paused: bool
) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    if is_paused:
        clock.advance(minutes=31)
        assert service.process_idle_conversations() == 1
    clock.now = opened.expires_at + TICK
    following = service.record_message(1, CUSTOMER, BUSINESS, sender=sender)
    ended = service.get_conversation_by_id(opened.conv_id)
    assert (ended.status, ended.ended_at, ended.updated_at) == ("expired", clock.now, opened.updated_at)
    assert following.status == ("pending" if sender == "user" else "progress")
    event = service.get_conversation_events(opened.conv_id)[-1]
    assert (event.type, event.deadline, event.occurred_at) == ("expired", opened.expires_at, clock.now)
    assert service.process_expired_conversations() == 0


@pytest.mark.parametrize("status", ["agent_closed", "support_closed", "user_closed", "expired", "failed"])
def test_a_message_after_the_end_opens_a_new_conversation(service: ConversationService, status: str) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    service.close_conversation(opened.conv_id, status)
    following = service.record_message(1, CUSTOMER, BUSINESS)
    assert following.conv_id != opened.conv_id
    assert service.get_conversation_by_id(opened.conv_id).status == status


def test_owners_channels_and_pairs_do_not_share_conversations(service: ConversationService) -> None:
    opened = [
        service.record_message(1, CUSTOMER, BUSINESS),
        service.record_message(2, CUSTOMER, BUSINESS),
        service.record_message(-(2**63), CUSTOMER, BUSINESS),
        service.record_message(2**63 - 1, CUSTOMER, BUSINESS),
        service.record_message(1, CUSTOMER, BUSINESS, "sms"),
        service.record_message(1, CUSTOMER, "+14155238887"),
        service.record_message(1, "ana@example.com", "widget-1", "webchat"),
    ]
    assert len({conversation.conv_id for conversation in opened}) == len(opened)
    again = service.record_message(1, "+551199999999", "whatsapp:+1 415 523-8886", sender="agent")
    assert again.conv_id == opened[0].conv_id, "without the ninth digit it is the same number"


def test_addresses_of_the_greatest_length_in_bytes_are_kept(service: ConversationService) -> None:
    one, other = "\U0001f600" * 320, "\U0001f601" * 320
    opened = service.record_message(1, one, other, "webchat")
    assert (opened.from_number, opened.to_number) == (one, other)
    assert service.record_message(1, other, one, "webchat").conv_id == opened.conv_id


@pytest.mark.parametrize("text", ["'; DROP TABLE conversations; --", "%s %(a)s :a", "a\\'b", "x?y$1"])
def test_text_that_looks_like_sql_is_only_text(service: ConversationService, text: str) -> None:
    opened = service.record_message(1, text, "widget", "webchat", context={text: text})
    found = service.get_conversation_by_id(opened.conv_id)
    assert (found.from_number, found.context) == (text, {text: text})


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"from_number": ""}, InvalidAddressError),
        ({"to_number": "a\x00b"}, InvalidAddressError),
        ({"to_number": CUSTOMER}, SameAddressError),
        ({"channel": "whats app"}, InvalidInputError),
        ({"sender": "customer"}, InvalidInputError),
        ({"owner_id": 2**63}, InvalidInputError),
        ({"owner_id": "1"}, InvalidInputError),
        ({"user_id": 1.5}, InvalidInputError),
        ({"context": {"a": "\x00"}}, InvalidInputError),
        ({"metadata": ["a"]}, InvalidInputError),
    ],
)
def test_an_unusable_argument_is_an_error_and_changes_nothing(
    service: ConversationService, changed: dict[str, Any], error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {"owner_id": 1, "from_number": CUSTOMER, "to_number": BUSINESS} | changed
    for call in (service.record_message, service.create_conversation, service.get_or_create_conversation):
        with pytest.raises(error) as caught:
            call(**arguments)
        assert CUSTOMER not in str(caught.value)
    assert count(service.database, "conversations") == 0


def test_a_clock_that_goes_back_takes_no_activity_away(service: ConversationService, clock: ManualClock) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    clock.advance(minutes=-10)
    after = service.record_message(1, CUSTOMER, BUSINESS)
    assert (after.conv_id, after.updated_at, after.last_inbound_at) == (
        opened.conv_id,
        opened.updated_at,
        opened.last_inbound_at,
    )
    answered = service.record_message(1, BUSINESS, CUSTOMER, sender="agent")
    assert (answered.status, answered.updated_at) == ("progress", opened.updated_at)


def test_timeouts_of_a_conversation_come_from_the_settings(
    database_url: str, clock: ManualClock, open_service: OpenService
) -> None:
    settings = load_settings(idle_timeout_minutes=0.5, expiration_minutes=90)
    service = open_service(database_url, settings=settings, clock=clock)
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    assert opened.idle_check_at == clock.now + timedelta(seconds=30)
    assert opened.idle_timeout_seconds == 30
    assert opened.expires_at == clock.now + timedelta(minutes=90)


def test_without_a_clock_the_database_says_what_time_it_is(database_url: str, open_service: OpenService) -> None:
    service = open_service(database_url)
    before = datetime.now(UTC) - timedelta(seconds=1)
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    answered = service.record_message(1, BUSINESS, CUSTOMER, sender="agent")
    assert before <= opened.started_at <= opened.updated_at <= answered.updated_at
    assert answered.updated_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert (service.process_idle_conversations(), service.process_expired_conversations()) == (0, 0)
    closed = service.close_conversation(opened.conv_id, "user_closed")
    assert closed.ended_at is not None
    assert closed.ended_at >= answered.updated_at
    with pytest.raises(InvalidTransitionError):
        service.close_conversation(opened.conv_id, "failed")

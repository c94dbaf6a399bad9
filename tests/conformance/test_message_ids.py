"""A message with an id counts once: whatever has come of it, and of its conversation, a copy changes nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lapse import ConversationService, InvalidInputError, Message, MessageResult
from tests.support.clock import ManualClock
from tests.support.sql import run_sql

CUSTOMER, BUSINESS = "+5511990000001", "+14155238886"
OTHER = "+5511990000002"


def sent(message_id: str | None, customer: str = CUSTOMER, **options: Any) -> Message:
    return Message(1, customer, BUSINESS, message_id=message_id, **options)


def contents(service: ConversationService) -> list[str]:
    tables = ("conversations", "conversation_events", "message_receipts")
    return [
        str(row) for table in tables for row in run_sql(service.database, f"SELECT * FROM {table} ORDER BY 1, 2, 3")
    ]


def outcomes(results: list[Any]) -> list[str]:
    return [result.outcome.value if isinstance(result, MessageResult) else type(result).__name__ for result in results]


def test_a_copy_changes_nothing_and_returns_the_conversation_of_the_first(
    service: ConversationService, clock: ManualClock
) -> None:
    first = service.record(sent("wamid.1"))
    assert first.outcome == "opened"
    before = contents(service)
    clock.advance(minutes=5)
    copy = service.record(sent("wamid.1"))
    assert (copy.outcome, copy.conversation) == ("copy", first.conversation)
    assert contents(service) == before


def test_a_copy_while_idle_and_one_after_the_end(service: ConversationService, clock: ManualClock) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS, message_id="wamid.1")
    assert opened is not None
    clock.advance(minutes=31)
    assert service.process_idle_conversations() == 1
    copy = service.record_message(1, CUSTOMER, BUSINESS, message_id="wamid.1")
    assert copy is not None
    assert (copy.conv_id, copy.status) == (opened.conv_id, "idle_timeout")
    service.close_conversation(opened.conv_id, "agent_closed")
    clock.advance(minutes=2)
    copy = service.record_message(1, CUSTOMER, BUSINESS, message_id="wamid.1")
    assert copy is not None
    assert (copy.conv_id, copy.status) == (opened.conv_id, "agent_closed")
    assert len(service.get_conversation_history(1, CUSTOMER, BUSINESS)) == 1


def test_ids_are_of_one_owner_and_channel(service: ConversationService) -> None:
    results = [
        service.record(sent("7")),
        service.record(Message(2, CUSTOMER, BUSINESS, message_id="7")),
        service.record(Message(1, CUSTOMER, BUSINESS, "sms", message_id="7")),
        service.record(sent("7", OTHER)),
    ]
    assert outcomes(results) == ["opened", "opened", "opened", "copy"]
    assert results[3].conversation == results[0].conversation


def test_a_copy_of_what_opened_nothing_opens_nothing(service: ConversationService) -> None:
    notice = sent("note", sender="system")
    assert service.record(notice).outcome == "not_opened"
    service.record(sent(None))
    assert service.record(notice) == MessageResult("copy", None)  # type: ignore[arg-type]
    assert service.record(sent("quiet", OTHER, opens=False)).outcome == "not_opened"
    assert service.record(sent("quiet", OTHER)).outcome == "copy"


def test_copies_in_one_list(service: ConversationService) -> None:
    results = service.record_messages([sent("a"), sent("a"), sent("b", OTHER), sent("a"), sent("b", OTHER), sent("c")])
    assert outcomes(results) == ["opened", "copy", "opened", "copy", "copy", "continued"]
    conversations = [result.conversation for result in results if isinstance(result, MessageResult)]
    assert conversations[0] == conversations[1] == conversations[3] == conversations[5]
    assert conversations[2] == conversations[4]


def test_an_id_of_two_open_conversations_in_one_list_counts_once(
    service: ConversationService, clock: ManualClock
) -> None:
    service.record_messages([sent(None), sent(None, OTHER)])
    clock.advance(minutes=1)
    results = service.record_messages([sent("a", OTHER), sent("a")])
    assert sorted(outcomes(results)) == ["continued", "copy"]
    first, copy = (result.conversation for result in results if isinstance(result, MessageResult))
    assert first == copy
    latest = [service.get_conversation_history(1, customer, BUSINESS)[0].updated_at for customer in (CUSTOMER, OTHER)]
    assert sorted(latest) == [clock.now - timedelta(minutes=1), clock.now]


def test_ids_of_one_list_are_noted_whatever_their_messages_mean(
    service: ConversationService, clock: ManualClock
) -> None:
    customers = [f"+551199000001{number}" for number in range(5)]
    opened = service.record_messages([sent(f"{place}", customer) for place, customer in enumerate(customers[:4])])
    service.record(sent("4", customers[0], sender="agent"))
    clock.advance(minutes=1)
    messages = [
        sent("a", customers[0]),
        sent("b", customers[1], sender="agent"),
        sent("2", customers[2]),
        sent(None, customers[3]),
        sent("e", customers[4]),
    ]
    results = service.record_messages(messages)
    assert outcomes(results) == ["continued", "answered", "copy", "continued", "opened"]
    assert outcomes(service.record_messages(messages)) == ["copy", "copy", "copy", "continued", "copy"]
    rows = run_sql(
        service.database, "SELECT message_id, conv_id FROM message_receipts WHERE message_id IN ('a', 'b', 'e')"
    )
    assert {row.message_id: str(row.conv_id) for row in rows} == {
        message_id: str(result.conversation.conv_id)  # type: ignore[union-attr]
        for message_id, result in (("a", opened[0]), ("b", opened[1]), ("e", results[4]))
    }


@pytest.mark.parametrize("is_alone", [True, False])
@pytest.mark.parametrize("draws_the_same", [False, True])
def test_everything_once_more_changes_nothing(
    service: ConversationService,
    clock: ManualClock,
    is_alone: bool,
    draws_the_same: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where two calls draw the same fraction of a second for their receipts: neither was repeated."""
    if draws_the_same:
        monkeypatch.setattr("lapse.store.operations.message_group.secrets.randbelow", lambda _most: 7)
    messages = [
        sent("1"),
        sent("2", sender="agent"),
        sent("3", OTHER, sender="bot"),
        sent("4", "+5511990000003", sent_at=clock.now - timedelta(days=2)),
        sent("5", sender="system"),
        sent("6", OTHER, sent_at=clock.now - timedelta(minutes=3)),
    ]
    results = service.record_messages(messages)
    assert outcomes(results) == ["opened", "answered", "opened", "late", "continued", "continued"]
    before = contents(service)
    clock.advance(minutes=1)
    again = [service.record(message) for message in messages] if is_alone else service.record_messages(messages)
    assert outcomes(again) == ["copy"] * 6
    assert contents(service) == before


def test_an_id_is_noted_where_its_message_is_done(service: ConversationService) -> None:
    """Known pairs take another way than unknown ones: the receipt names the conversation on each."""
    opened = service.record(sent("1")).conversation
    assert opened is not None
    for number, sender in enumerate(["user", "bot", "agent", "user", "system"], 2):
        service.record(sent(str(number), sender=sender))
    rows = run_sql(service.database, "SELECT message_id, conv_id FROM message_receipts ORDER BY message_id")
    assert [(row.message_id, str(row.conv_id)) for row in rows] == [(str(n), str(opened.conv_id)) for n in range(1, 7)]


@pytest.mark.parametrize("message_id", ["", "a\nb", "x" * 501, 7, b"7", True], ids=repr)
def test_an_unusable_id_is_an_error_and_changes_nothing(service: ConversationService, message_id: Any) -> None:
    before = contents(service)
    with pytest.raises(InvalidInputError, match="message_id"):
        service.record(sent(message_id))
    assert contents(service) == before


def test_the_conversation_of_the_first_may_be_gone(service: ConversationService, clock: ManualClock) -> None:
    opened = service.record(sent("1")).conversation
    assert opened is not None
    service.close_conversation(opened.conv_id, "agent_closed")
    clock.advance(minutes=60 * 24 * 40)
    assert service.conversation_repo.purger.purge(30).conversations == 1
    assert service.record(sent("1")) == MessageResult("copy", None)  # type: ignore[arg-type]

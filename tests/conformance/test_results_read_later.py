"""What messages recorded together return is read from the database's row when it is asked for: nobody sees that."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from typing import Any

import pytest
from pydantic import TypeAdapter

from lapse import Conversation, ConversationService, ConversationStatus, Message, MessageResult
from tests.support.backlog import BUSINESS, customer

TOGETHER = 20
MESSAGES = [Message(1, customer(n), BUSINESS, context={"of": n}) for n in range(TOGETHER)]


@pytest.fixture
def results(service: ConversationService) -> list[MessageResult]:
    """Return the results of messages that continued conversations, none of which was read."""
    service.record_messages(MESSAGES)
    found = [result for result in service.record_messages(MESSAGES) if isinstance(result, MessageResult)]
    assert len(found) == TOGETHER
    return found


def conversation_of(result: MessageResult) -> Conversation:
    assert isinstance(result.conversation, Conversation)
    return result.conversation


def test_each_is_the_conversation_that_the_database_holds(
    service: ConversationService, results: list[MessageResult]
) -> None:
    for number in (TOGETHER - 1, 0, 7):
        conversation = conversation_of(results[number])
        stored = service.get_conversation_by_id(conversation.conv_id)
        assert conversation == stored
        assert stored == conversation
        assert conversation.from_number == customer(number)
        assert conversation.context == {"of": number}
        assert conversation.status is ConversationStatus.PENDING
        assert conversation.customer_address == customer(number)


@pytest.mark.parametrize(
    "use",
    [
        copy.copy,
        copy.deepcopy,
        lambda result: pickle.loads(pickle.dumps(result)),
        lambda result: MessageResult(result.outcome, result.conversation, result.expired_conv_id),
    ],
    ids=["copy", "deepcopy", "pickle", "fields"],
)
def test_whatever_is_done_to_it_first(service: ConversationService, results: list[MessageResult], use: Any) -> None:
    used = use(results[3])
    assert used == results[3]
    assert used != results[4]
    assert conversation_of(used) == service.get_conversation_by_id(conversation_of(used).conv_id)


def test_it_is_shown_and_written_as_any_other(service: ConversationService, results: list[MessageResult]) -> None:
    shown = repr(results[1])
    assert "MessageResult(" in shown or "LazyResult(" in shown
    assert customer(1) not in shown
    written = TypeAdapter(MessageResult).dump_python(results[0])
    stored = service.get_conversation_by_id(conversation_of(results[0]).conv_id)
    assert written == {
        "outcome": "continued",
        "conversation": dataclasses.asdict(stored),
        "expired_conv_id": None,
    }
    assert TypeAdapter(Any).dump_json(results[2]).startswith(b'{"outcome":"continued","conversation":{"conv_id":"')


def test_it_is_frozen(results: list[MessageResult]) -> None:
    result: Any = results[0]
    for name in ("conversation", "outcome", "expired_conv_id"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(result, name, None)
    assert result.outcome == "continued"
    assert isinstance(result.conversation, Conversation)


def test_threads_read_one_at_the_same_time(service: ConversationService) -> None:
    for _ in range(20):
        results = service.record_messages(MESSAGES)
        result: Any = results[0]
        seen: list[Any] = []
        barrier = threading.Barrier(8)

        def read(result: Any, barrier: threading.Barrier, seen: list[Any]) -> None:
            barrier.wait()
            seen.append(result.conversation)

        threads = [threading.Thread(target=read, args=(result, barrier, seen)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [result.conversation] * 8
        assert result.conversation.context == {"of": 0}

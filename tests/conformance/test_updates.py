"""What an application keeps with a conversation: changed without being activity, and without losing another change."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from lapse import ConversationNotFoundError, ConversationService, DatabaseError, InvalidInputError
from lapse.json_objects import MAX_JSON_DEPTH
from tests.conftest import OpenService
from tests.support.clock import ManualClock
from tests.support.sql import run_sql

CUSTOMER, BUSINESS = "+5511999999999", "+14155238886"
WRITERS, CHANGES_EACH = 6, 15


def test_a_second_message_leaves_what_the_first_one_brought(service: ConversationService) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS, user_id=3, context={"step": 1})
    again = service.record_message(1, CUSTOMER, BUSINESS, user_id=4, context={"step": 2}, metadata={"a": 1})
    assert again == opened


def test_an_update_changes_only_what_it_names_and_is_no_activity(
    service: ConversationService, clock: ManualClock
) -> None:
    opened = service.record_message(
        1, CUSTOMER, BUSINESS, context={"step": 1, "name": "Ana"}, metadata={"source": "ad"}
    )
    clock.advance(minutes=5)
    assert service.update_conversation(opened.conv_id, user_id=7).user_id == 7
    updated = service.update_conversation(opened.conv_id, context={"step": 2, "lang": "pt"}, owner_id=1)
    assert updated.context == {"step": 2, "name": "Ana", "lang": "pt"}
    assert (updated.metadata, updated.user_id) == ({"source": "ad"}, 7)
    assert service.update_conversation(opened.conv_id, metadata={"utm": "x"}).metadata == {"source": "ad", "utm": "x"}
    found = service.get_conversation_by_id(opened.conv_id)
    for name in ("status", "version", "updated_at", "last_inbound_at", "expires_at", "idle_check_at"):
        assert getattr(found, name) == getattr(opened, name)
    assert service.get_conversation_events(opened.conv_id) == []
    clock.advance(minutes=26)
    assert service.process_idle_conversations() == 1


def test_a_key_whose_value_is_none_is_removed_and_a_stored_null_stays(service: ConversationService) -> None:
    stored = {"a": 1, "null": None, "deep": {"x": 1, "y": None}}
    opened = service.record_message(1, CUSTOMER, BUSINESS, context=stored)
    updated = service.update_conversation(opened.conv_id, context={"a": None, "never there": None})
    assert updated.context == {"null": None, "deep": {"x": 1, "y": None}}
    updated = service.update_conversation(opened.conv_id, context={"deep": {"z": None}, "": [None]})
    assert updated.context == {"null": None, "deep": {"z": None}, "": [None]}, "only the first level is merged"


@pytest.mark.parametrize(
    "change",
    [
        {"number": 10**500, "float": 1.5e-7, "large": 1e15, "zero": 0.0},
        {'quo"ted': "a.b", "$.a": "[0]", "a\\b": "ç\u2028😀", "'": "''"},
        {"%s": "%(x)s", ":now": "::jsonb", "@>": "{}"},
    ],
)
def test_what_is_merged_is_returned_exactly(service: ConversationService, change: dict[str, Any]) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS, metadata={"before": 2**70} | dict.fromkeys(change, "old"))
    updated = service.update_conversation(opened.conv_id, metadata=change)
    assert updated.metadata == {"before": 2**70} | change
    assert service.get_conversation_by_id(opened.conv_id) == updated


def test_an_update_of_nothing_returns_the_conversation(service: ConversationService) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS, user_id=3, context={"a": 1})
    nothings: list[dict[str, Any]] = [{}, {"context": {}, "metadata": None}, {"user_id": None}]
    for nothing in nothings:
        assert service.update_conversation(opened.conv_id, **nothing) == opened


def test_what_has_ended_can_be_updated(service: ConversationService) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    closed = service.close_conversation(opened.conv_id, "agent_closed")
    updated = service.update_conversation(opened.conv_id, user_id=2, metadata={"rating": 5})
    assert (updated.status, updated.ended_at, updated.version) == (closed.status, closed.ended_at, closed.version)
    assert (updated.user_id, updated.metadata) == (2, {"rating": 5})


@pytest.mark.parametrize("owner_id", [None, 2])
@pytest.mark.parametrize("change", [{}, {"user_id": 1}, {"context": {"a": 1}}])
def test_an_update_of_what_is_not_there_is_an_error(
    service: ConversationService, owner_id: int | None, change: dict[str, Any]
) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    conv_id = UUID(int=1) if owner_id is None else opened.conv_id
    with pytest.raises(ConversationNotFoundError):
        service.update_conversation(conv_id, owner_id=owner_id, **change)
    assert service.get_conversation_by_id(opened.conv_id) == opened


def test_an_update_takes_only_json_that_both_databases_keep(service: ConversationService) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    deep: list[Any] = []
    for _ in range(MAX_JSON_DEPTH):
        deep = [deep]
    wrong: list[Any] = [{"a": (1,)}, {1: "a"}, {"a": float("nan")}, {"a": "\x00"}, {"a": deep}]
    for change in wrong:
        with pytest.raises(InvalidInputError, match="context"):
            service.update_conversation(opened.conv_id, context=change)
    assert service.get_conversation_by_id(opened.conv_id) == opened


@pytest.mark.parametrize("stored", ["[1]", '"text"', "7", "null"])
def test_what_is_no_object_is_not_merged_into(service: ConversationService, stored: str) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    run_sql(service.database, f"UPDATE conversations SET context = '{stored}'")
    with pytest.raises(DatabaseError, match="column context that is no JSON object"):
        service.update_conversation(opened.conv_id, context={"a": 1})
    assert service.update_conversation(opened.conv_id, metadata={"a": 1}).metadata == {"a": 1}
    assert run_sql(service.database, "SELECT CAST(context AS text) FROM conversations") == [(stored,)]


def test_updates_at_once_lose_nothing(
    service: ConversationService, database_url: str, open_service: OpenService
) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    writers = [open_service(database_url) for _ in range(WRITERS)]

    def write(writer: int) -> None:
        for number in range(CHANGES_EACH):
            writers[writer].update_conversation(
                opened.conv_id,
                context={f"{writer}.{number}": number, f"{writer}.{number - 1}": None},
                metadata={f"{writer}.{number}": number},
            )

    with ThreadPoolExecutor(WRITERS) as executor:
        list(executor.map(write, range(WRITERS)))
    found = service.get_conversation_by_id(opened.conv_id)
    last = CHANGES_EACH - 1
    assert found.context == {f"{writer}.{last}": last for writer in range(WRITERS)}
    assert len(found.metadata) == WRITERS * CHANGES_EACH

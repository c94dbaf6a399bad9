"""Context and metadata come back as they were given, or are refused; what others wrote there is in nobody's way."""

from __future__ import annotations

import enum
import json
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from lapse import ConversationService, DatabaseError, InvalidInputError
from lapse.store.operations.conversations import is_empty
from tests.support.backlog import BUSINESS, customer
from tests.support.sql import run_sql


def nested(levels: int, *, of_lists: bool = False) -> dict[str, Any]:
    """Return an object so deep: of objects, or of lists in an object."""
    value: Any = [] if of_lists else {}
    for _ in range(levels - (2 if of_lists else 1)):
        value = [value] if of_lists else {"in": value}
    return {"in": value} if of_lists else value


def cycle(kind: str) -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = {"dict": value, "list": [value], "twice": [value, value]}[kind]
    return value


class Colour(enum.StrEnum):
    """A text that is an enum's."""

    RED = "red"


KEPT: dict[str, dict[str, Any]] = {
    "64 levels of objects": nested(64),
    "64 levels of lists": nested(64, of_lists=True),
    "all kinds": {"a": [1, 2.5, None, True, False, "ç\u2028\U0001f600", {"b": {}}, []], "": -0.0, "é": 5e-324},
    "long numbers": {"a": 10**999, "b": -(2**63), "c": 1e16, "d": 1e22, "e": 0.1 + 0.2, "f": 1.7e-300},
    "keys like numbers": {"1": 1, "1.0": 2, "true": 3, "null": 4},
    "an ordered one": OrderedDict(b=1, a=2),
    "an enum's text": {"a": Colour.RED, "b": [Colour.RED]},
    "backslashes": {"a": "\\u0000", "b": "\\\\u0000", "\\": '"'},
    "a hundred thousand values": {"a": [0] * 100_000},
}
REFUSED: dict[str, Any] = {
    "65 levels of objects": nested(65),
    "65 levels of lists": nested(65, of_lists=True),
    "900 levels": nested(900),
    "100,000 levels": nested(100_000),
    "holds itself": cycle("dict"),
    "holds itself in a list": cycle("list"),
    "holds itself twice": cycle("twice"),
    "a number as key": {1: 2},
    "None as key": {None: 2},
    "a bool as key, deeper": {"a": [{"b": {True: 2}}]},
    "a tuple": {"a": (1, 2)},
    "a tuple, deeper": {"a": [{"b": ((),)}]},
    "a set": {"a": {1}},
    "bytes": {"a": b"1"},
    "a moment": {"a": datetime(2026, 1, 5, tzinfo=UTC)},
    "a decimal": {"a": Decimal(1)},
    "nan": {"a": float("nan")},
    "infinity": {"a": [float("-inf")]},
    "a number of 1,001 digits": {"a": 10**1_000},
    "a number of 5,000 digits": {"a": 10**5_000},
    "more digits than a float has": {"a": 1e23},
    "the largest float": {"a": sys.float_info.max},
    "half a pair": {"a": "\ud83d"},
    "two halves of a pair": {"a": "\ud83d\ude00"},
    "half a pair as key": {"\ud83d": 1},
    "NUL": {"a": "\x00"},
    "NUL as key": {"a": {"\x00": 1}},
    "an object": {"a": object()},
    "a list": [],
    "text": "{}",
    "pairs": [("a", 1)],
}


@pytest.mark.parametrize("name", ["context", "metadata"])
def test_what_is_stored_is_what_comes_back(service: ConversationService, name: str) -> None:
    for number, (kind, value) in enumerate(KEPT.items()):
        given: dict[str, Any] = {name: value}
        recorded = service.record_message(1, customer(number), BUSINESS, **given)
        for found in (recorded, service.get_conversation_by_id(recorded.conv_id)):
            assert getattr(found, name) == value, kind
            assert json.dumps(getattr(found, name), sort_keys=True)


@pytest.mark.parametrize("name", ["context", "metadata"])
def test_what_would_not_come_back_is_refused(service: ConversationService, name: str) -> None:
    for kind, value in REFUSED.items():
        given: dict[str, Any] = {name: value}
        for call in (service.record_message, service.create_conversation, service.get_or_create_conversation):
            with pytest.raises(InvalidInputError) as caught:
                call(1, customer(0), BUSINESS, **given)
            text = str(caught.value)
            assert text.startswith(f"{name} "), (kind, text)
            assert text.isprintable(), kind
            assert len(text) < 150, kind
    assert service.database.run(is_empty)


def deep_in_calls(calls: int, work: Callable[[], Any]) -> Any:
    """Do something so many calls deep."""
    return work() if calls == 0 else deep_in_calls(calls - 1, work)


WRITTEN_BY_OTHERS = {
    # More than Python reads wherever it reads: an event loop's thread is not as deep in calls as who asks.
    "1,100 levels": '{"in": ' * 1_100 + "{}" + "}" * 1_100,
    "a number of 5,000 digits": '{"a": ' + "1" * 5_000 + "}",
}


@pytest.mark.parametrize("kind", WRITTEN_BY_OTHERS)
def test_what_cannot_be_read_is_in_nobodys_way(service: ConversationService, kind: str) -> None:
    ids = [service.record_message(1, customer(number), BUSINESS, metadata={"n": number}).conv_id for number in range(3)]
    written = f"UPDATE conversations SET metadata = '{WRITTEN_BY_OTHERS[kind]}' WHERE conv_id = '{ids[1]}'"
    run_sql(service.database, written.replace(":", r"\:"))
    reads: list[Callable[[], Any]] = [
        lambda: service.get_active_conversations(1),
        lambda: service.get_conversation_history(1, customer(1), BUSINESS),
        lambda: [service.record_message(1, customer(1), BUSINESS, sender="agent")],
        lambda: [service.extend_expiration(ids[1], 5)],
        lambda: [service.close_conversation(ids[1], "agent_closed")],
    ]
    for read in reads:
        found = {conversation.conv_id: conversation for conversation in deep_in_calls(300, read)}
        assert ids[1] in found
        assert all(found[conv_id].metadata == {"n": ids.index(conv_id)} for conv_id in found if conv_id != ids[1])
        unreadable = found[ids[1]].metadata
        assert found[ids[1]].context == {}
        looks: list[Callable[[Any], Any]] = [dict, len, bool, lambda value: value["a"], lambda value: value.get("a")]
        for look in looks:
            with pytest.raises(DatabaseError, match="the JSON that the database holds here"):
                look(unreadable)
        with pytest.raises(DatabaseError):
            dict(pickle.loads(pickle.dumps(found[ids[1]])).metadata)
    assert len(service.get_conversation_events(ids[1])) == 2
    with pytest.raises(DatabaseError, match="column metadata that lapse cannot read"):
        deep_in_calls(300, lambda: service.get_conversation_by_id(ids[1]))


def test_an_owners_list_comes_however_deep_in_calls_it_is_asked_for(service: ConversationService) -> None:
    for number in range(2):
        service.record_message(1, customer(number), BUSINESS, metadata=nested(64))
    found = deep_in_calls(700, lambda: service.get_active_conversations(1))
    assert [conversation.metadata for conversation in found] == [nested(64)] * 2


@pytest.mark.parametrize("text", ["garbage", "{", "", "NaN{"])
def test_on_sqlite_what_is_no_json_is_in_nobodys_way(text: str, tmp_path: Any) -> None:
    from lapse import migrate

    service = ConversationService(f"sqlite:///{tmp_path}/others.db")
    migrate(service.database)
    ids = [service.record_message(1, customer(number), BUSINESS).conv_id for number in range(2)]
    run_sql(service.database, f"UPDATE conversations SET context = '{text}' WHERE conv_id = '{ids[0]}'")
    found = {conversation.conv_id: conversation for conversation in service.get_active_conversations(1)}
    assert found[ids[1]].context == {}
    with pytest.raises(DatabaseError, match="is no JSON"):
        dict(found[ids[0]].context)
    service.close()

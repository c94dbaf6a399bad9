"""The life of a conversation, as a table written out here a second time: rules change only on purpose."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import product

import pytest

from lapse import ConversationStatus, EventType, InvalidInputError, InvalidTransitionError, NaiveDatetimeError, Sender
from lapse.lifecycle import (
    SENDER_RULES,
    TRANSITIONS,
    event_type,
    is_due,
    parse_closed_status,
    parse_sender,
    require_utc,
    status_after_message,
    statuses_unchanged_by,
)

CLOSED = ("agent_closed", "support_closed", "user_closed", "expired", "failed")
ALLOWED = {
    "pending": {"progress", "idle_timeout", *CLOSED},
    "progress": {"idle_timeout", *CLOSED},
    "idle_timeout": {"pending", "progress", *CLOSED},
    **{status: set() for status in CLOSED},
}
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def test_statuses_are_active_paused_or_closed() -> None:
    assert set(ConversationStatus.active_statuses()) == {"pending", "progress"}
    assert set(ConversationStatus.paused_statuses()) == {"idle_timeout"}
    assert set(ConversationStatus.closed_statuses()) == set(CLOSED)
    assert set(ConversationStatus.open_statuses()) == {"pending", "progress", "idle_timeout"}
    assert set(ConversationStatus) == set(ALLOWED)


@pytest.mark.parametrize(("from_status", "to_status"), list(product(ALLOWED, ALLOWED)))
def test_a_transition_is_possible_or_an_error_that_names_both_statuses(from_status: str, to_status: str) -> None:
    transition = ConversationStatus(from_status), ConversationStatus(to_status)
    if to_status in ALLOWED[from_status]:
        event_type(*transition)
        return
    with pytest.raises(InvalidTransitionError) as caught:
        event_type(*transition)
    assert (caught.value.from_status, caught.value.to_status) == (from_status, to_status)
    assert from_status in str(caught.value)
    assert to_status in str(caught.value)


@pytest.mark.parametrize(
    ("sender", "is_activity", "answers", "opens", "opens_as"),
    [
        ("user", True, False, True, "pending"),
        ("agent", True, True, True, "progress"),
        ("support", True, True, True, "progress"),
        ("bot", True, False, True, "progress"),
        ("system", False, False, False, "progress"),
    ],
)
def test_the_table_of_senders(sender: str, is_activity: bool, answers: bool, opens: bool, opens_as: str) -> None:
    rule = SENDER_RULES[Sender(sender)]
    assert (rule.is_activity, rule.answers, rule.opens, rule.opens_as) == (is_activity, answers, opens, opens_as)
    assert rule.is_inbound == (sender == "user")
    assert set(SENDER_RULES) == set(Sender)


@pytest.mark.parametrize(
    ("status", "sender", "was_answered", "after"),
    [
        ("pending", "user", False, "pending"),
        ("pending", "agent", False, "progress"),
        ("pending", "support", False, "progress"),
        ("pending", "bot", False, "pending"),
        ("pending", "system", False, "pending"),
        *[("progress", sender, True, "progress") for sender in Sender],
        ("idle_timeout", "user", False, "pending"),
        ("idle_timeout", "user", True, "progress"),
        ("idle_timeout", "bot", False, "pending"),
        ("idle_timeout", "bot", True, "progress"),
        ("idle_timeout", "agent", False, "progress"),
        ("idle_timeout", "support", True, "progress"),
        ("idle_timeout", "system", False, "idle_timeout"),
        ("idle_timeout", "system", True, "idle_timeout"),
    ],
)
def test_the_status_after_a_message(status: str, sender: str, was_answered: bool, after: str) -> None:
    side, before = Sender(sender), ConversationStatus(status)
    assert status_after_message(before, side, was_answered=was_answered) == after
    if status != "idle_timeout":
        assert (before in statuses_unchanged_by(side)) == (after == status)


def test_every_possible_transition_has_a_type_of_event() -> None:
    types = {(str(old), str(new)): event_type(old, new) for old, following in TRANSITIONS.items() for new in following}
    assert types[("pending", "progress")] is EventType.ACTIVATED
    assert types[("idle_timeout", "progress")] is EventType.REACTIVATED
    assert types[("idle_timeout", "pending")] is EventType.REACTIVATED
    by_status = {"idle_timeout": "paused", "expired": "expired", "failed": "failed"}
    for (_, new), found in types.items():
        if new not in ("pending", "progress"):
            assert found == by_status.get(new, "closed")


@pytest.mark.parametrize("word", ["", "USER", "customer", "Bot", None, 1, []])
def test_an_unknown_sender_is_an_error_that_lists_the_known_ones(word: str) -> None:
    with pytest.raises(InvalidInputError, match="user, agent, support, bot, system"):
        parse_sender(word)


@pytest.mark.parametrize("word", ["pending", "progress", "idle_timeout", "", "closed", None])
def test_a_status_that_closes_nothing_is_an_error(word: str) -> None:
    with pytest.raises(InvalidInputError, match="does not close"):
        parse_closed_status(word)


def test_deadlines_are_strict() -> None:
    tick = timedelta(microseconds=1)
    assert not is_due(NOON, NOON - tick)
    assert not is_due(NOON, NOON)
    assert is_due(NOON, NOON + tick)


def test_a_naive_time_is_an_error() -> None:
    with pytest.raises(NaiveDatetimeError, match="time zone"):
        require_utc(NOON.replace(tzinfo=None))


def test_a_time_of_another_zone_is_converted() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=-3)))
    assert require_utc(there) == NOON
    assert require_utc(there).tzinfo is UTC


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_time_that_leaves_the_calendar_in_utc_is_an_error(text: str) -> None:
    with pytest.raises(InvalidInputError, match="calendar"):
        require_utc(datetime.fromisoformat(text))

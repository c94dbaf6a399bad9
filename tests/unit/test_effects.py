"""What a message does to its pair's conversations, by the rules alone."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapse import Conversation, ConversationEvent, ConversationStatus, Message, Outcome
from lapse.checked_message import CheckedMessage, check_message
from lapse.effects import TICK, Effect, PairState, act_on_deadlines, effect_of, end_of

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
CUSTOMER, BUSINESS = "+5511990000001", "+14155238886"
IDLE, EXPIRATION = 30, 24 * 60
KINDS = {"owner_id": "bigint", "user_id": "bigint"}
FIRST, SECOND = UUID(int=1), UUID(int=2)
NOTHING = PairState(None)
SENDERS = ["user", "agent", "support", "bot", "system"]
TIMES = ("updated_at", "last_inbound_at", "last_outbound_at", "first_answered_at")


def message(sender: str = "user", sent: float | None = None, opens: bool | None = None) -> CheckedMessage:
    """Return a message; `sent` is in minutes after noon."""
    addresses = (CUSTOMER, BUSINESS) if sender == "user" else (BUSINESS, CUSTOMER)
    sent_at = None if sent is None else at(sent)
    raw = Message(1, *addresses, sender=sender, sent_at=sent_at, opens=opens)
    return check_message(raw, KINDS, EXPIRATION * 60, IDLE * 60)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def received(
    state: PairState, minutes: float, sender: str = "user", sent: float | None = None, opens: bool | None = None
) -> Effect:
    """Return the effect of a message that arrives so many minutes after noon."""
    new_id = FIRST if state == NOTHING else SECOND
    return effect_of(message(sender, sent, opens), state, at(minutes), new_id)


def live(effect: Effect) -> Conversation:
    assert effect.conversation is not None
    return effect.conversation


def paused(state: PairState, minutes: float) -> PairState:
    state, (event,) = act_on_deadlines(state, at(minutes), IDLE * 60)
    assert event.type == "paused"
    return state


def closed(state: PairState, minutes: float) -> PairState:
    assert state.open is not None
    return PairState(None, replace(state.open, status=ConversationStatus.AGENT_CLOSED, ended_at=at(minutes)))


# --- the table of senders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", SENDERS)
def test_who_opens(sender: str) -> None:
    effect = received(NOTHING, 0, sender)
    if sender == "system":
        assert effect == Effect(Outcome.NOT_OPENED, NOTHING)
        return
    opened = live(effect)
    assert effect.outcome == "opened"
    assert opened.status == ("pending" if sender == "user" else "progress")
    assert (opened.opened_by, opened.started_at, opened.updated_at) == (sender, NOON, NOON)
    assert opened.last_inbound_at == (NOON if sender == "user" else None)
    assert opened.last_outbound_at == (None if sender == "user" else NOON)
    assert opened.first_answered_at == (NOON if sender in ("agent", "support") else None)
    assert (opened.customer_address, opened.business_address) == (CUSTOMER, BUSINESS)


@pytest.mark.parametrize("sender", SENDERS)
def test_one_message_may_open_or_not_whatever_its_sender(sender: str) -> None:
    assert received(NOTHING, 0, sender, opens=True).outcome == "opened"
    assert received(NOTHING, 0, sender, opens=False) == Effect(Outcome.NOT_OPENED, NOTHING)


@pytest.mark.parametrize(
    ("sender", "outcome", "status"),
    [
        ("user", "continued", "pending"),
        ("agent", "answered", "progress"),
        ("support", "answered", "progress"),
        ("bot", "continued", "pending"),
        ("system", "continued", "pending"),
    ],
)
def test_what_a_message_does_to_one_that_nobody_has_answered(sender: str, outcome: str, status: str) -> None:
    opened = received(NOTHING, 0)
    effect = received(opened.state, 5, sender)
    after = live(effect)
    assert (effect.outcome, after.status) == (outcome, status)
    assert after.updated_at == (NOON if sender == "system" else at(5))
    assert after.last_inbound_at == (at(5) if sender == "user" else NOON)
    assert after.last_outbound_at == (at(5) if sender in ("agent", "support", "bot") else None)
    assert after.first_answered_at == (at(5) if sender in ("agent", "support") else None)
    assert [event.type for event in effect.events] == (["activated"] if outcome == "answered" else [])
    assert after.idle_check_at == live(opened).idle_check_at, "a message moves no indexed column"


def test_a_notice_leaves_all_as_it_is() -> None:
    state = paused(received(NOTHING, 0).state, 31)
    assert received(state, 32, "system") == Effect(Outcome.CONTINUED, state, state.open)


@pytest.mark.parametrize("sender", ["user", "agent", "support", "bot"])
@pytest.mark.parametrize("was_answered", [True, False])
def test_a_paused_one_comes_back_to_progress_only_where_it_was_ever_answered(sender: str, was_answered: bool) -> None:
    state = received(NOTHING, 0).state
    if was_answered:
        state = received(state, 1, "agent").state
    effect = received(paused(state, 35), 36, sender)
    assert effect.outcome == "reactivated"
    assert live(effect).status == ("progress" if was_answered or sender in ("agent", "support") else "pending")
    assert [event.type for event in effect.events] == ["reactivated"]
    assert live(effect).idle_check_at == at(36 + IDLE)


def test_a_bot_that_opens_has_not_answered() -> None:
    state = paused(received(NOTHING, 0, "bot").state, 31)
    assert live(received(state, 36)).status == "pending"


# --- the expiry ------------------------------------------------------------------------------------------------------


def test_a_message_ends_what_is_past_its_expiry_and_opens_the_next() -> None:
    state = received(NOTHING, 0).state
    effect = received(state, EXPIRATION + 1)
    assert effect.outcome == "opened"
    assert effect.expired is not None
    assert (effect.expired.conv_id, effect.expired.status, effect.expired.ended_at) == (
        FIRST,
        "expired",
        at(EXPIRATION + 1),
    )
    (event,) = effect.events
    assert (event.type, event.deadline, event.actor) == ("expired", at(EXPIRATION), "user")
    assert live(effect).conv_id == SECOND


def test_at_its_expiry_it_is_still_live() -> None:
    assert received(received(NOTHING, 0).state, EXPIRATION).outcome == "continued"


def test_a_notice_ends_what_is_past_its_expiry_and_opens_nothing() -> None:
    effect = received(received(NOTHING, 0).state, EXPIRATION + 1, "system")
    assert (effect.outcome, effect.conversation) == ("not_opened", None)
    assert effect.expired is not None
    assert effect.state == PairState(None, effect.expired)


def test_the_next_one_knows_when_the_customer_last_wrote() -> None:
    state = received(received(NOTHING, 0).state, EXPIRATION - 10).state
    effect = received(state, EXPIRATION + 5, "agent")
    assert (effect.outcome, live(effect).last_inbound_at) == ("opened", at(EXPIRATION - 10))
    swept, _ = act_on_deadlines(state, at(EXPIRATION + 1), IDLE * 60)
    assert live(received(swept, EXPIRATION + 5, "agent")).last_inbound_at == at(EXPIRATION - 10)


# --- late messages ----------------------------------------------------------------------------------------------------


def test_a_late_message_does_not_bring_back_what_would_be_idle_again() -> None:
    state = paused(received(NOTHING, 0).state, 31)
    effect = received(state, 180, sent=5)
    assert (effect.outcome, live(effect).status, effect.events) == ("late", "idle_timeout", ())
    assert (live(effect).last_inbound_at, live(effect).updated_at) == (at(5), at(5))


@pytest.mark.parametrize(("sent", "outcome"), [(29.9, "late"), (30, "reactivated")])
def test_the_last_moment_that_brings_it_back(sent: float, outcome: str) -> None:
    effect = received(paused(received(NOTHING, 0).state, 31), 60, sent=sent)
    assert effect.outcome == outcome
    if outcome == "reactivated":
        assert live(effect).idle_check_at == at(60)


def test_a_late_answer_counts_where_the_conversation_stays_paused() -> None:
    effect = received(paused(received(NOTHING, 0).state, 31), 180, "agent", sent=5)
    assert (effect.outcome, live(effect).first_answered_at) == ("late", at(5))
    assert live(received(effect.state, 181)).status == "progress"


def test_a_message_from_the_future_counts_as_of_now() -> None:
    effect = received(received(NOTHING, 0).state, 5, sent=600)
    assert live(effect).updated_at == at(5)
    assert live(received(NOTHING, 5, sent=600)).started_at == at(5)


def test_what_would_have_expired_by_now_is_not_opened() -> None:
    assert received(NOTHING, EXPIRATION + 1, sent=0) == Effect(Outcome.LATE, NOTHING)
    effect = received(NOTHING, EXPIRATION, sent=0)
    assert (effect.outcome, live(effect).started_at, live(effect).expires_at) == ("opened", NOON, at(EXPIRATION))


def test_a_late_message_belongs_to_the_conversation_that_was_open_when_it_was_sent() -> None:
    state = closed(received(NOTHING, 0).state, 10)
    effect = received(state, 20, sent=5)
    assert (effect.outcome, live(effect).status, live(effect).last_inbound_at) == ("late", "agent_closed", at(5))
    assert effect.state.open is None
    assert received(state, 20, sent=10).outcome == "late"
    assert received(state, 20, sent=10.01).outcome == "opened"


def test_a_late_message_for_an_ended_one_leaves_the_next_alone() -> None:
    state = received(closed(received(NOTHING, 0).state, 10), 12).state
    assert state.open is not None
    effect = received(state, 20, "agent", sent=5)
    assert (effect.outcome, live(effect).conv_id) == ("late", FIRST)
    assert effect.state.open is state.open, "an answer of before is none to this one"


def test_what_expired_ended_at_its_expiry_whenever_that_was_noticed() -> None:
    state, _ = act_on_deadlines(received(NOTHING, 0).state, at(EXPIRATION + 60), IDLE * 60)
    assert state.latest is not None
    assert end_of(replace(state.latest, ended_at=at(EXPIRATION + 60))) == at(EXPIRATION)
    assert received(state, EXPIRATION + 90, sent=EXPIRATION).outcome == "late"
    assert received(state, EXPIRATION + 90, sent=EXPIRATION + 1).outcome == "opened"


def test_a_message_that_overtook_the_first_one_does_not_shut_it_out() -> None:
    state = received(NOTHING, 1, "agent", sent=1).state
    effect = received(state, 2, "user", sent=0)
    assert (effect.outcome, live(effect).status, live(effect).last_inbound_at) == ("continued", "progress", NOON)
    assert (live(effect).started_at, live(effect).updated_at) == (at(1), at(1))


SENT = st.tuples(st.sampled_from(["user", "agent", "support", "bot", "system"]), st.integers(0, 4_000))


@given(sent=st.lists(SENT, min_size=1, max_size=8), seed=st.randoms(use_true_random=False), wait=st.integers(0, 3_000))
def test_any_order_of_arrival_gives_the_same_times(sent: list[tuple[str, int]], seed: random.Random, wait: int) -> None:
    arrival = max(minutes for _, minutes in sent) + wait

    def times(order: list[tuple[str, int]]) -> list[datetime | None]:
        state = NOTHING
        for sender, minutes in order:
            state = received(state, arrival, sender, sent=minutes).state
        return [None if state.open is None else getattr(state.open, name) for name in TIMES]

    shuffled = list(sent)
    seed.shuffle(shuffled)
    assert times(shuffled) == times(sorted(sent, key=lambda one: one[1])) == times(sent)


@given(sent=st.lists(st.tuples(SENT, st.integers(0, 200)), min_size=1, max_size=12))
def test_a_late_message_never_moves_anything_backwards(sent: list[tuple[tuple[str, int], int]]) -> None:
    state, now = received(NOTHING, 0).state, 0
    for (sender, minutes), passed in sent:
        now += passed
        before, _ = act_on_deadlines(state, at(now), IDLE * 60)
        state = received(before, now, sender, sent=minutes).state
        for old in before:
            new = None if old is None else state.get(old.conv_id)
            if old is None or new is None:
                continue
            assert new.version >= old.version
            assert (new.started_at, new.expires_at, new.opened_by) == (old.started_at, old.expires_at, old.opened_by)
            for name in ("updated_at", "last_inbound_at", "last_outbound_at", "idle_check_at"):
                assert (getattr(new, name) or NOON) >= (getattr(old, name) or NOON), name
            assert new.updated_at <= at(now)
            if old.first_answered_at is not None:
                assert new.first_answered_at is not None


# --- deadlines, by the rules alone -----------------------------------------------------------------------------------


def types(events: tuple[ConversationEvent, ...]) -> list[tuple[str, datetime]]:
    return [(event.type.value, event.occurred_at) for event in events]


def test_deadlines_are_acted_on_just_after_they_have_passed() -> None:
    state = received(NOTHING, 0).state
    assert act_on_deadlines(state, at(IDLE), IDLE * 60) == (state, ())
    state, events = act_on_deadlines(state, at(3 * EXPIRATION), IDLE * 60)
    assert types(events) == [("paused", at(IDLE) + TICK), ("expired", at(EXPIRATION) + TICK)]
    assert [event.actor for event in events] == ["worker", "worker"]
    assert state.open is None
    assert act_on_deadlines(state, at(9 * EXPIRATION), IDLE * 60) == (state, ())


def test_where_both_have_passed_at_the_same_moment_it_expires() -> None:
    state = received(received(NOTHING, 0).state, EXPIRATION - IDLE).state
    _, events = act_on_deadlines(state, at(EXPIRATION + 1), IDLE * 60)
    assert types(events) == [("expired", at(EXPIRATION) + TICK)]

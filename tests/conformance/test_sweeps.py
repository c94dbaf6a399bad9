"""Sweeps: what is due ends once, nothing ends early, and the timeouts of the present rule."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lapse import Conversation, ConversationService, SettingsError
from lapse.messages import OpeningSender
from tests.support.clock import ManualClock
from tests.support.sql import count
from tests.support.sweeps import sweep_expired, sweep_idle

BUSINESS = "+14155238886"
TICK = timedelta(microseconds=1)
HALF_HOUR = timedelta(minutes=30)


def open_many(service: ConversationService, number: int, sender: OpeningSender = "user") -> list[Conversation]:
    return [service.record_message(1, f"+5511{900000000 + index}", BUSINESS, sender=sender) for index in range(number)]


def statuses(service: ConversationService, conversations: list[Conversation]) -> list[str]:
    return [service.get_conversation_by_id(conversation.conv_id).status.value for conversation in conversations]


@pytest.mark.parametrize("sender", ["user", "agent"])
def test_idle_begins_right_after_its_deadline(
    service: ConversationService, clock: ManualClock, sender: OpeningSender
) -> None:
    (opened,) = open_many(service, 1, sender)
    for moment in (HALF_HOUR - TICK, HALF_HOUR):
        clock.now = opened.updated_at + moment
        assert service.find_idle_conversations() == []
        assert service.process_idle_conversations() == 0
    clock.now = opened.updated_at + HALF_HOUR + TICK
    assert service.find_idle_conversations() == [service.get_conversation_by_id(opened.conv_id)]
    assert service.process_idle_conversations() == 1
    paused = service.get_conversation_by_id(opened.conv_id)
    assert (paused.status, paused.ended_at, paused.version) == ("idle_timeout", None, 1)
    assert (paused.updated_at, paused.expires_at) == (opened.updated_at, opened.expires_at)
    (event,) = service.get_conversation_events(opened.conv_id)
    assert (event.type, event.from_status, event.to_status) == ("paused", opened.status, "idle_timeout")
    assert (event.reason, event.actor) == ("idle_timeout", "worker")
    assert (event.deadline, event.occurred_at) == (opened.updated_at + HALF_HOUR, clock.now)
    assert event.data == {"idle_timeout_seconds": 1800}
    assert service.find_idle_conversations() == []
    assert service.process_idle_conversations() == 0, "nothing ends twice"


@pytest.mark.parametrize("before", ["pending", "progress", "idle_timeout"])
def test_expiry_comes_right_after_its_deadline(service: ConversationService, clock: ManualClock, before: str) -> None:
    (opened,) = open_many(service, 1, "agent" if before == "progress" else "user")
    if before == "idle_timeout":
        clock.now = opened.updated_at + HALF_HOUR + TICK
        assert service.process_idle_conversations() == 1
    for moment in (opened.expires_at - TICK, opened.expires_at):
        clock.now = moment
        assert service.find_expired_conversations() == []
        assert service.process_expired_conversations() == 0
    clock.now = opened.expires_at + TICK
    assert [found.conv_id for found in service.find_expired_conversations()] == [opened.conv_id]
    assert service.process_expired_conversations() == 1
    ended = service.get_conversation_by_id(opened.conv_id)
    assert (ended.status, ended.ended_at, ended.updated_at) == ("expired", clock.now, opened.updated_at)
    event = service.get_conversation_events(opened.conv_id)[-1]
    assert (event.type, event.from_status, event.reason, event.actor) == ("expired", before, "expired", "worker")
    assert (event.deadline, event.occurred_at) == (opened.expires_at, clock.now)
    assert service.process_expired_conversations() == 0


def test_a_sweep_says_how_late_each_conversation_ended(service: ConversationService, clock: ManualClock) -> None:
    opened = open_many(service, 1)
    clock.advance(minutes=10)
    opened += open_many(service, 3)[1:]  # the first one has had activity since
    clock.now = opened[0].started_at + HALF_HOUR + timedelta(minutes=15, seconds=0.5)
    paused = sweep_idle(service.database, HALF_HOUR)
    assert sorted(paused.lags_seconds) == pytest.approx([300.5] * 3)
    clock.now = opened[0].expires_at + timedelta(days=2)
    expired = sweep_expired(service.database)
    assert sorted(expired.lags_seconds) == pytest.approx([172_200, 172_200, 172_800])
    assert list(sweep_expired(service.database).lags_seconds) == []


def test_where_both_deadlines_have_passed_it_is_expired(service: ConversationService, clock: ManualClock) -> None:
    (opened,) = open_many(service, 1)
    clock.now = opened.expires_at
    assert [found.conv_id for found in service.find_idle_conversations()] == [opened.conv_id]
    clock.now += TICK
    assert service.find_idle_conversations() == []
    assert service.process_idle_conversations() == 0
    assert service.process_expired_conversations() == 1
    assert statuses(service, [opened]) == ["expired"]


def test_activity_moves_the_idle_deadline_though_the_look_stays(
    service: ConversationService, clock: ManualClock
) -> None:
    (opened,) = open_many(service, 1)
    clock.advance(minutes=20)
    (active,) = open_many(service, 1)
    assert active.idle_check_at == opened.idle_check_at
    clock.now = opened.idle_check_at + TICK
    result = sweep_idle(service.database, HALF_HOUR)
    assert (result.claimed, result.ended, result.rearmed, result.contended) == (1, 0, 1, 0)
    assert service.get_conversation_by_id(opened.conv_id).idle_check_at == active.updated_at + HALF_HOUR
    clock.now = active.updated_at + HALF_HOUR
    assert service.process_idle_conversations() == 0
    clock.now += TICK
    assert service.process_idle_conversations() == 1


def test_a_shorter_timeout_acts_at_the_next_sweep(service: ConversationService, clock: ManualClock) -> None:
    old = open_many(service, 3)
    clock.advance(minutes=6)
    open_many(service, 1)
    assert service.find_idle_conversations() == []
    assert [found.conv_id for found in service.find_idle_conversations(idle_minutes=5)] == [
        old[1].conv_id,
        old[2].conv_id,
    ]
    assert service.process_idle_conversations(idle_minutes=5) == 2
    assert statuses(service, old) == ["pending", "idle_timeout", "idle_timeout"]
    (event,) = service.get_conversation_events(old[1].conv_id)
    assert event.deadline == old[1].updated_at + timedelta(minutes=5)
    clock.advance(minutes=5)
    assert service.process_idle_conversations(idle_minutes=5) == 0
    clock.advance(seconds=1)
    assert service.process_idle_conversations(idle_minutes=5) == 1


def test_a_shorter_timeout_acts_on_more_than_one_batch(service: ConversationService, clock: ManualClock) -> None:
    old = open_many(service, 7)
    clock.advance(minutes=6)
    ended = [service.process_idle_conversations(idle_minutes=5, limit=3) for _ in range(4)]
    assert ended == [3, 3, 1, 0]
    assert set(statuses(service, old)) == {"idle_timeout"}


def test_a_longer_timeout_ends_nothing_early(service: ConversationService, clock: ManualClock) -> None:
    (opened,) = open_many(service, 1)
    hour = timedelta(minutes=60)
    for moment in (HALF_HOUR + TICK, hour):
        clock.now = opened.updated_at + moment
        assert service.process_idle_conversations(idle_minutes=60) == 0
        assert service.find_idle_conversations(idle_minutes=60) == []
    clock.now = opened.updated_at + hour + TICK
    assert service.process_idle_conversations(idle_minutes=60) == 1
    (event,) = service.get_conversation_events(opened.conv_id)
    assert event.deadline == opened.updated_at + hour


def test_alternating_timeouts_of_two_workers_settle(service: ConversationService, clock: ManualClock) -> None:
    (opened,) = open_many(service, 1)
    for _ in range(5):
        clock.advance(minutes=1)
        assert service.process_idle_conversations(idle_minutes=10) == 0
        assert service.process_idle_conversations(idle_minutes=20) == 0
    clock.now = opened.updated_at + timedelta(minutes=10) + TICK
    assert service.process_idle_conversations(idle_minutes=20) == 0
    assert service.process_idle_conversations(idle_minutes=10) == 1


def test_a_batch_takes_at_most_its_limit_and_the_longest_overdue_first(
    service: ConversationService, clock: ManualClock
) -> None:
    opened = []
    for index in range(5):
        opened.append(service.record_message(1, f"+551190000000{index}", BUSINESS))
        clock.advance(minutes=1)
    clock.now = opened[-1].expires_at + TICK
    assert [found.conv_id for found in service.find_expired_conversations(2)] == [
        opened[0].conv_id,
        opened[1].conv_id,
    ]
    first = sweep_expired(service.database, 2)
    assert (first.claimed, first.ended) == (2, 2)
    assert statuses(service, opened) == ["expired", "expired", "pending", "pending", "pending"]
    assert service.process_expired_conversations(limit=2) == 2
    assert service.process_expired_conversations(limit=2) == 1
    assert service.process_expired_conversations(limit=2) == 0
    assert count(service.database, "conversation_events") == 5


def test_rearmed_conversations_do_not_use_up_the_limit(service: ConversationService, clock: ManualClock) -> None:
    opened = open_many(service, 12)
    clock.advance(minutes=1)
    open_many(service, 10)  # the same ones, but for the last two, had activity
    clock.now = opened[0].started_at + HALF_HOUR + TICK
    assert service.process_idle_conversations(limit=2) == 2
    assert statuses(service, opened) == ["pending"] * 10 + ["idle_timeout"] * 2


def test_many_conversations_with_one_deadline_are_drained_in_batches(
    service: ConversationService, clock: ManualClock
) -> None:
    opened = open_many(service, 10)
    clock.now = opened[0].expires_at + TICK
    after, ended = sweep_expired(service.database, 3), 3
    assert after.ended == 3
    while after.claimed == 3:
        assert after.last_deadline in (None, opened[0].expires_at)
        after = sweep_expired(service.database, 3, after.last_deadline or opened[0].started_at)
        ended += after.ended
    assert ended == 10


def test_sweeps_go_over_all_owners_and_channels(service: ConversationService, clock: ManualClock) -> None:
    service.record_message(-5, "ana", "widget", "webchat")
    service.record_message(5, "+5511999999999", BUSINESS, "sms")
    closed = service.record_message(6, "+5511999999999", BUSINESS)
    service.close_conversation(closed.conv_id, "user_closed")
    clock.advance(minutes=31)
    assert service.process_idle_conversations() == 2
    clock.advance(minutes=1440)
    assert service.process_expired_conversations() == 2
    assert service.get_conversation_by_id(closed.conv_id).version == 1


@pytest.mark.parametrize("minutes", [0, -5, float("nan"), 5_256_001])
def test_an_unusable_timeout_is_an_error(service: ConversationService, minutes: float) -> None:
    for call in (service.process_idle_conversations, service.find_idle_conversations):
        with pytest.raises(SettingsError, match="idle timeout"):
            call(idle_minutes=minutes)

"""Purging: what ended long enough ago goes with its events; nothing else does."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from lapse import ConversationService, ConversationStatus, InvalidInputError, PurgeResult
from lapse.shutdown import StopEvent
from lapse.store.purger import Purger
from tests.support.clock import ManualClock
from tests.support.closed_conversations import insert_closed
from tests.support.invariants import check_invariants
from tests.support.sql import count, run_sql

CUSTOMER, BUSINESS = "+5511999999999", "+14155238886"
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)


@pytest.fixture
def purger(service: ConversationService) -> Purger:
    return service.conversation_repo.purger


def left(service: ConversationService) -> set[str]:
    return {str(row.conv_id) for row in run_sql(service.database, "SELECT conv_id FROM conversations")}


def counts(service: ConversationService) -> tuple[int, int]:
    return count(service.database, "conversations"), count(service.database, "conversation_events")


def test_a_conversation_goes_right_after_its_days_with_all_its_events(
    service: ConversationService, clock: ManualClock, purger: Purger
) -> None:
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    service.record_message(1, BUSINESS, CUSTOMER, sender="agent")
    clock.advance(minutes=5)
    ended = service.close_conversation(opened.conv_id, "agent_closed").ended_at
    assert ended is not None
    clock.now = ended + 30 * DAY
    assert purger.purge(30) == PurgeResult(closed_before=ended)
    assert counts(service) == (1, 2)
    clock.now += TICK
    wanted = PurgeResult(closed_before=ended + TICK, conversations=1, events=2, oldest=ended, newest=ended)
    assert purger.preview(30) == wanted
    assert counts(service) == (1, 2), "a preview changes nothing"
    assert purger.purge(30) == wanted
    assert counts(service) == (0, 0)
    assert purger.purge(30).conversations == 0


def test_every_closed_status_goes_and_no_open_one(
    service: ConversationService, clock: ManualClock, purger: Purger
) -> None:
    for number, status in enumerate(ConversationStatus.closed_statuses()):
        insert_closed(service.database, range(number, number + 1), ended_ago=2 * DAY, status=status)
    pending = service.record_message(1, CUSTOMER, BUSINESS)
    progress = service.record_message(2, CUSTOMER, BUSINESS, sender="agent")
    paused = service.record_message(3, CUSTOMER, BUSINESS)
    clock.advance(minutes=31)
    service.record_message(1, CUSTOMER, BUSINESS)
    service.record_message(2, CUSTOMER, BUSINESS, sender="agent")
    assert service.process_idle_conversations() == 1
    # Written by others: an open conversation with an end, and a closed one without.
    run_sql(service.database, "UPDATE conversations SET ended_at = '2020-01-01T00:00:00Z' WHERE status = 'pending'")
    (unended,) = insert_closed(service.database, range(50, 51), ended_ago=2 * DAY)
    run_sql(service.database, f"UPDATE conversations SET ended_at = NULL WHERE conv_id = '{unended}'")
    clock.now += 300 * DAY
    result = purger.purge(1)
    assert (result.conversations, result.events) == (5, 5)
    assert left(service) == {str(conv_id) for conv_id in (pending.conv_id, progress.conv_id, paused.conv_id, unended)}


def test_part_of_a_day_counts(service: ConversationService, purger: Purger) -> None:
    insert_closed(service.database, range(3), ended_ago=timedelta(hours=13))
    young = insert_closed(service.database, range(3, 5), ended_ago=timedelta(hours=11))
    assert purger.purge(0.5).conversations == 3
    assert left(service) == {str(conv_id) for conv_id in young}
    check_invariants(service.database)


def test_an_id_of_two_owners_goes_for_the_one_whose_is_old(service: ConversationService, purger: Purger) -> None:
    (old,) = insert_closed(service.database, range(1), ended_ago=9 * DAY, owner_id=1)
    (young,) = insert_closed(service.database, range(1), ended_ago=DAY, owner_id=2)
    for table in ("conversation_events", "conversations"):
        run_sql(service.database, f"UPDATE {table} SET conv_id = '{old}' WHERE conv_id = '{young}'")
    assert purger.preview(5).events == 1
    result = purger.purge(5)
    assert (result.conversations, result.events) == (1, 1)
    assert run_sql(service.database, "SELECT owner_id FROM conversations") == [(2,)]
    check_invariants(service.database)


@pytest.mark.parametrize("step", [timedelta(0), TICK])
def test_batches_take_the_oldest_first_until_nothing_old_is_left(
    service: ConversationService, purger: Purger, step: timedelta
) -> None:
    insert_closed(service.database, range(10), ended_ago=9 * DAY, step=step)
    insert_closed(service.database, range(10, 14), ended_ago=DAY)
    seen: list[PurgeResult] = []
    result = purger.purge(5, batch_size=3, on_batch=seen.append)
    assert [done.conversations for done in seen] == [3, 6, 9, 10]
    assert [done.events for done in seen] == [3, 6, 9, 10]
    assert result == seen[-1]
    assert result.is_complete
    assert result.oldest is not None
    assert result.newest == result.oldest + 9 * step
    assert counts(service) == (4, 4)
    check_invariants(service.database)


def test_a_preview_counts_across_its_slices_what_a_purge_deletes(
    service: ConversationService, clock: ManualClock, purger: Purger
) -> None:
    """Slices are a thousand: more than that ended at one moment, or each at its own."""
    insert_closed(service.database, range(1_500), ended_ago=9 * DAY, step=timedelta(0))
    insert_closed(service.database, range(1_500, 3_600), ended_ago=8 * DAY)
    insert_closed(service.database, range(3_600, 3_610), ended_ago=DAY)
    found = purger.preview(5)
    assert (found.conversations, found.events) == (3_600, 3_600)
    assert (found.oldest, found.newest) == (clock.now - 9 * DAY, clock.now - 8 * DAY + 2_099 * TICK)
    assert purger.purge(5) == found
    assert counts(service) == (10, 10)


def test_a_stop_ends_a_purge_between_two_batches(service: ConversationService, purger: Purger) -> None:
    insert_closed(service.database, range(10), ended_ago=9 * DAY)
    stop_event = StopEvent()

    def stop_after_two(done: PurgeResult) -> None:
        if done.conversations == 6:
            stop_event.set()

    stopped = purger.purge(5, batch_size=3, stop_event=stop_event, on_batch=stop_after_two)
    assert (stopped.conversations, stopped.is_complete) == (6, False)
    assert counts(service) == (4, 4)
    assert purger.purge(5, stop_event=stop_event).conversations == 0
    assert purger.purge(5).conversations == 4
    check_invariants(service.database)


def test_a_rate_is_kept(service: ConversationService, purger: Purger) -> None:
    insert_closed(service.database, range(21), ended_ago=9 * DAY)
    begin, seen = time.monotonic(), list[int]()
    assert purger.purge(5, max_rate=10, on_batch=lambda done: seen.append(done.conversations)).conversations == 21
    assert time.monotonic() - begin >= 2
    assert seen == [10, 20, 21]


def test_the_pair_of_a_purged_conversation_opens_a_new_one(
    service: ConversationService, clock: ManualClock, purger: Purger
) -> None:
    first = service.record_message(1, CUSTOMER, BUSINESS)
    service.close_conversation(first.conv_id, "user_closed")
    clock.now += 40 * DAY
    second = service.record_message(1, CUSTOMER, BUSINESS)
    assert purger.purge(30).conversations == 1
    assert service.record_message(1, CUSTOMER, BUSINESS).conv_id == second.conv_id
    assert [found.conv_id for found in service.get_conversation_history(1, CUSTOMER, BUSINESS)] == [second.conv_id]


@pytest.mark.parametrize(
    "arguments",
    [
        {"closed_before_days": 0},
        {"closed_before_days": -1},
        {"closed_before_days": float("nan")},
        {"closed_before_days": 36_501},
        {"closed_before_days": "90"},
        {"batch_size": 0},
        {"batch_size": 1_001},
        {"batch_size": 1.5},
        {"max_rate": 0},
        {"max_rate": float("inf")},
    ],
    ids=str,
)
def test_an_unusable_argument_is_an_error_and_deletes_nothing(
    service: ConversationService, purger: Purger, arguments: dict[str, Any]
) -> None:
    insert_closed(service.database, range(1), ended_ago=9 * DAY)
    with pytest.raises(InvalidInputError):
        purger.purge(**{"closed_before_days": 1, **arguments})
    assert counts(service) == (1, 1)

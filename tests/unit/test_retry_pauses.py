"""The pauses between a call's attempts."""

from __future__ import annotations

from lapse.store.retries import MAX_PAUSE_SECONDS, MAX_RETRIES, RETRY_TIMEOUT_SECONDS, retry_pauses
from tests.clock import START, ManualClock


def test_the_first_retry_is_at_once_and_the_pauses_grow_to_their_longest() -> None:
    drawn = [list(retry_pauses()) for _ in range(200)]
    assert {len(pauses) for pauses in drawn} == {MAX_RETRIES}
    assert {pauses[0] for pauses in drawn} == {0.0}
    averages = [sum(pauses) / len(drawn) for pauses in zip(*drawn, strict=True)]
    assert averages == sorted(averages)
    assert all(0 <= pause <= MAX_PAUSE_SECONDS for pauses in drawn for pause in pauses)


def test_no_two_callers_wait_for_the_same_times() -> None:
    assert len({tuple(retry_pauses()) for _ in range(200)}) == 200


def test_no_attempt_begins_after_the_timeout() -> None:
    clock, begun = ManualClock(), []
    for pause in retry_pauses(lambda: clock().timestamp()):
        begun.append(clock.advance(seconds=pause) - START)
        clock.advance(seconds=4)  # as an attempt takes that finds a silent server
    assert 2 <= len(begun) < MAX_RETRIES
    assert begun[-1].total_seconds() <= RETRY_TIMEOUT_SECONDS

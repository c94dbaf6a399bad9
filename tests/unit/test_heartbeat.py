"""The heartbeat: a loop that moves is alive, one that stands still is not, and the database may take its time."""

from __future__ import annotations

import pytest

from lapse.worker.liveness import STEP_SECONDS, TOLERANCE, Heartbeat


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


def test_a_step_may_take_three_times_what_it_should(clock: _Clock) -> None:
    heartbeat = Heartbeat(clock)
    heartbeat.beat("waiting", 60)
    clock.now += TOLERANCE * 60
    assert heartbeat.is_alive
    clock.now += 0.001
    assert not heartbeat.is_alive
    assert heartbeat.description() == "waiting for 180.0 seconds"
    heartbeat.beat("working")
    assert heartbeat.is_alive


def test_a_short_wait_is_not_judged_by_its_milliseconds(clock: _Clock) -> None:
    heartbeat = Heartbeat(clock)
    heartbeat.beat("waiting", 0.01)
    clock.now += TOLERANCE * STEP_SECONDS
    assert heartbeat.is_alive
    clock.now += 0.001
    assert not heartbeat.is_alive


def test_the_database_may_take_as_long_as_it_likes(clock: _Clock) -> None:
    heartbeat = Heartbeat(clock)
    with heartbeat.asking_database():
        clock.now += 1_000_000
        assert heartbeat.is_alive
    clock.now += TOLERANCE * STEP_SECONDS
    assert heartbeat.is_alive, "the answer was a step"
    clock.now += 0.001
    assert not heartbeat.is_alive


def test_a_loop_that_never_began_is_not_alive_for_ever(clock: _Clock) -> None:
    heartbeat = Heartbeat(clock)
    clock.now += TOLERANCE * STEP_SECONDS + 0.001
    assert not heartbeat.is_alive

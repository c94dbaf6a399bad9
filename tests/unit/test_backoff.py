"""Backing off after failures, and what is quarantined until its pause is over."""

from __future__ import annotations

import math
from uuid import UUID

import pytest

from lapse.worker import quarantine
from lapse.worker.backoff import Backoff
from lapse.worker.quarantine import FIRST_BACKOFF_SECONDS, Quarantine
from tests.support.clock import ManualSeconds

SOMEBODY = UUID(int=1)


def test_a_pause_doubles_up_to_its_limit() -> None:
    backoff = Backoff(1, 8)
    for whole in (1, 2, 4, 8, 8, 8):
        assert whole / 2 <= backoff.record_failure() <= whole


def test_a_pause_is_jittered() -> None:
    backoff = Backoff(1, 1)
    assert len({backoff.record_failure() for _ in range(20)}) > 1, "a fleet must not come back all at once"


def test_a_pause_has_an_end() -> None:
    clock = ManualSeconds()
    backoff = Backoff(20, 20, clock)
    assert backoff.remaining == 0
    seconds = backoff.record_failure()
    assert backoff.remaining == pytest.approx(seconds)
    clock.advance(seconds - 1)
    assert backoff.remaining == pytest.approx(1)
    clock.advance(1)
    assert backoff.remaining == 0


def test_a_success_forgets_the_failures() -> None:
    backoff = Backoff(100, 1_000)
    backoff.record_failure()
    backoff.reset()
    assert backoff.remaining == 0
    assert backoff.record_failure() <= 100


def test_a_long_outage_does_not_overflow() -> None:
    backoff = Backoff(0.5, 5)
    assert all(backoff.record_failure() <= 5 for _ in range(5_000))


def test_what_was_refused_is_ready_again_after_its_pause() -> None:
    clock = ManualSeconds()
    refused = Quarantine(clock)
    assert (refused.ids, refused.ready, refused.seconds_to_next) == ([], [], math.inf)
    assert refused.add(SOMEBODY) <= FIRST_BACKOFF_SECONDS
    assert (refused.ids, refused.ready) == ([SOMEBODY], [])
    clock.advance(FIRST_BACKOFF_SECONDS)
    assert (refused.ids, refused.ready, refused.seconds_to_next) == ([SOMEBODY], [SOMEBODY], 0)


def test_the_pause_of_what_is_refused_again_is_longer() -> None:
    refused = Quarantine()
    refused.add(SOMEBODY)
    assert FIRST_BACKOFF_SECONDS <= refused.add(SOMEBODY) <= 2 * FIRST_BACKOFF_SECONDS


def test_what_is_released_is_refused_no_more() -> None:
    refused = Quarantine()
    refused.add(SOMEBODY)
    for _ in range(2):
        refused.release(SOMEBODY)
        assert refused.ids == []


def test_only_so_many_are_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MAX_QUARANTINED", 2)
    refused = Quarantine()
    refused.add(UUID(int=1))
    assert not refused.is_full
    refused.add(UUID(int=2))
    assert refused.is_full

"""Backing off after failures, and what is quarantined until its pause is over."""

from __future__ import annotations

import math
import time
from uuid import UUID

import pytest

from lapse.worker import quarantine
from lapse.worker.backoff import Backoff
from lapse.worker.quarantine import Quarantine

SOMEBODY = UUID(int=1)


def test_a_pause_doubles_up_to_its_limit_and_is_jittered() -> None:
    backoff = Backoff(1, 8)
    for whole in (1, 2, 4, 8, 8, 8):
        assert whole / 2 <= backoff.record_failure() <= whole
    assert len({backoff.record_failure() for _ in range(20)}) > 1, "a fleet must not come back all at once"


def test_a_pause_has_an_end_and_a_success_forgets_it() -> None:
    backoff = Backoff(0.02, 0.02)
    assert backoff.remaining == 0
    backoff.record_failure()
    assert 0 < backoff.remaining <= 0.02
    time.sleep(0.02)
    assert backoff.remaining == 0
    long = Backoff(100, 1_000)
    long.record_failure()
    long.reset()
    assert long.remaining == 0
    assert long.record_failure() <= 100


def test_a_long_outage_does_not_overflow() -> None:
    backoff = Backoff(0.5, 5)
    assert all(backoff.record_failure() <= 5 for _ in range(5_000))


def test_what_was_refused_is_ready_again_after_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "FIRST_BACKOFF_SECONDS", 0.02)
    refused = Quarantine()
    assert (refused.ids, refused.ready, refused.seconds_to_next) == ([], [], math.inf)
    assert refused.add(SOMEBODY) <= 0.02
    assert (refused.ids, refused.ready) == ([SOMEBODY], [])
    time.sleep(0.02)
    assert (refused.ids, refused.ready, refused.seconds_to_next) == ([SOMEBODY], [SOMEBODY], 0)
    assert 0.02 <= refused.add(SOMEBODY) <= 0.04, "the pause grows"
    refused.release(SOMEBODY)
    assert refused.ids == []
    refused.release(SOMEBODY)


def test_only_so_many_are_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MAX_QUARANTINED", 2)
    refused = Quarantine()
    refused.add(UUID(int=1))
    assert not refused.is_full
    refused.add(UUID(int=2))
    assert refused.is_full

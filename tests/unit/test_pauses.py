"""Pauses after failures, and for the sake of a rate."""

from __future__ import annotations

import math
import time
from uuid import UUID

import pytest

from lapse.worker import set_aside
from lapse.worker.pauses import Backoff, RateLimit
from lapse.worker.set_aside import SetAside

SOMEBODY = UUID(int=1)


def test_a_pause_doubles_up_to_its_limit_and_is_jittered() -> None:
    backoff = Backoff(1, 8)
    for whole in (1, 2, 4, 8, 8, 8):
        assert whole / 2 <= backoff.failed() <= whole
    assert len({backoff.failed() for _ in range(20)}) > 1, "a fleet must not come back all at once"


def test_a_pause_has_an_end_and_a_success_forgets_it() -> None:
    backoff = Backoff(0.02, 0.02)
    assert backoff.seconds_left == 0
    backoff.failed()
    assert 0 < backoff.seconds_left <= 0.02
    time.sleep(0.02)
    assert backoff.seconds_left == 0
    long = Backoff(100, 1_000)
    long.failed()
    long.succeeded()
    assert long.seconds_left == 0
    assert long.failed() <= 100


def test_a_long_outage_does_not_overflow() -> None:
    backoff = Backoff(0.5, 5)
    assert all(backoff.failed() <= 5 for _ in range(5_000))


@pytest.mark.parametrize(
    ("rate", "limit", "most"), [(None, 5_000, 5_000), (400, 5_000, 100), (400, 7, 7), (0.1, 50, 1)]
)
def test_a_rate_bounds_a_batch(rate: float | None, limit: int, most: int) -> None:
    assert RateLimit(rate).cap(limit) == most


def test_a_rate_is_kept_over_several_batches() -> None:
    limit, now = RateLimit(1_000), time.monotonic()
    assert limit.pause_after(100, now) == pytest.approx(0.1, abs=0.05)
    assert limit.pause_after(100, now) == pytest.approx(0.2, abs=0.05), "another task's batch counts, too"
    assert RateLimit(1_000).pause_after(100, now - 5) == 0, "it was slower than that by itself"
    assert RateLimit().pause_after(10_000, now) == 0


def test_what_was_refused_is_ready_again_after_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_aside, "FIRST_PAUSE_SECONDS", 0.02)
    aside = SetAside()
    assert (aside.ids, aside.ready, aside.seconds_to_next) == ([], [], math.inf)
    assert aside.add(SOMEBODY) <= 0.02
    assert (aside.ids, aside.ready) == ([SOMEBODY], [])
    time.sleep(0.02)
    assert (aside.ids, aside.ready, aside.seconds_to_next) == ([SOMEBODY], [SOMEBODY], 0)
    assert 0.02 <= aside.add(SOMEBODY) <= 0.04, "the pause grows"
    aside.forget(SOMEBODY)
    assert aside.ids == []
    aside.forget(SOMEBODY)


def test_only_so_many_are_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_aside, "MOST", 2)
    aside = SetAside()
    aside.add(UUID(int=1))
    assert not aside.is_full
    aside.add(UUID(int=2))
    assert aside.is_full

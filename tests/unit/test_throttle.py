"""The size of a batch follows the time that batches take; a rate bounds it, and is kept by pauses."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapse.worker.throttle import FIRST_SIZE, MAX_SIZE, MIN_SIZE, TARGET_SECONDS, AdaptiveBatchSize, RateLimit


def settled(size: AdaptiveBatchSize, seconds_per_row: float, batches: int = 50) -> int:
    """Return the size after so many full batches."""
    for _ in range(batches):
        size.record(size.value, size.value * seconds_per_row)
    return size.value


@pytest.mark.parametrize(
    ("seconds_per_row", "value"),
    [(0.0001, 1_000), (0.001, 100), (0.002, 50), (0.000_001, MAX_SIZE), (0.5, MIN_SIZE)],
)
def test_it_settles_where_a_batch_takes_its_time(seconds_per_row: float, value: int) -> None:
    assert settled(AdaptiveBatchSize(), seconds_per_row) == value


def test_a_batch_that_was_not_full_says_nothing_about_a_larger_one() -> None:
    size = AdaptiveBatchSize()
    size.record(FIRST_SIZE - 1, 0.000_1)
    assert size.value == FIRST_SIZE
    size.record(FIRST_SIZE - 1, 2 * TARGET_SECONDS)
    assert size.value == FIRST_SIZE // 2, "but that it was slow says enough"


def test_one_odd_batch_changes_it_by_half_or_double_at_most() -> None:
    size = AdaptiveBatchSize()
    size.record(FIRST_SIZE, 60)
    assert size.value == FIRST_SIZE // 2
    size.record(size.value, 0)
    assert size.value == FIRST_SIZE


@pytest.mark.parametrize("fixed", [1, 100, 10_000])
def test_a_fixed_size_stays(fixed: int) -> None:
    size = AdaptiveBatchSize(fixed)
    for seconds in (0, 0.01, 1, 60):
        size.record(fixed, seconds)
        assert size.value == fixed


@pytest.mark.parametrize("fixed", [None, 1_000])
def test_statement_time_outs_shrink_it_down_to_one(fixed: int | None) -> None:
    size = AdaptiveBatchSize(fixed)
    seen = [size.value]
    while size.value > 1:
        size.on_timeout(size.value)
        seen.append(size.value)
    assert seen == sorted(set(seen), reverse=True)
    size.on_timeout(1)
    assert size.value == 1


def test_it_is_half_of_what_was_too_much() -> None:
    size = AdaptiveBatchSize(1_000)
    size.on_timeout(40)
    assert size.value == 20


def test_a_fixed_size_comes_back_slowly_after_a_time_out() -> None:
    size = AdaptiveBatchSize(1_000)
    size.on_timeout(1_000)
    size.record(500, 0.01)
    assert size.value == 550
    assert settled(size, 0.01) == 1_000


@given(st.lists(st.tuples(st.integers(0, MAX_SIZE), st.floats(0, 100)) | st.none()))
def test_it_is_never_out_of_bounds(batches: list[tuple[int, float] | None]) -> None:
    size = AdaptiveBatchSize()
    for batch in batches:
        if batch is None:
            size.on_timeout(size.value)
        else:
            size.record(min(batch[0], size.value), batch[1])
        assert 1 <= size.value <= MAX_SIZE


# --- rates ------------------------------------------------------------------------------------------------------------


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

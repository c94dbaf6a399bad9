"""The size of a batch follows the time that batches take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapse.worker.batch_size import FIRST, LEAST, MOST, TARGET_SECONDS, BatchSize


def settled(size: BatchSize, seconds_per_row: float, batches: int = 50) -> int:
    """Return the size after so many full batches."""
    for _ in range(batches):
        size.took(size.value, size.value * seconds_per_row)
    return size.value


@pytest.mark.parametrize(
    ("seconds_per_row", "value"),
    [(0.0001, 1_000), (0.001, 100), (0.002, 50), (0.000_001, MOST), (0.5, LEAST)],
)
def test_it_settles_where_a_batch_takes_its_time(seconds_per_row: float, value: int) -> None:
    assert settled(BatchSize(), seconds_per_row) == value


def test_a_batch_that_was_not_full_says_nothing_about_a_larger_one() -> None:
    size = BatchSize()
    size.took(FIRST - 1, 0.000_1)
    assert size.value == FIRST
    size.took(FIRST - 1, 2 * TARGET_SECONDS)
    assert size.value == FIRST // 2, "but that it was slow says enough"


def test_one_odd_batch_changes_it_by_half_or_double_at_most() -> None:
    size = BatchSize()
    size.took(FIRST, 60)
    assert size.value == FIRST // 2
    size.took(size.value, 0)
    assert size.value == FIRST


@pytest.mark.parametrize("fixed", [1, 100, 10_000])
def test_a_fixed_size_stays(fixed: int) -> None:
    size = BatchSize(fixed)
    for seconds in (0, 0.01, 1, 60):
        size.took(fixed, seconds)
        assert size.value == fixed


@pytest.mark.parametrize("fixed", [None, 1_000])
def test_statement_time_outs_shrink_it_down_to_one(fixed: int | None) -> None:
    size = BatchSize(fixed)
    seen = [size.value]
    while size.value > 1:
        size.timed_out(size.value)
        seen.append(size.value)
    assert seen == sorted(set(seen), reverse=True)
    size.timed_out(1)
    assert size.value == 1


def test_it_is_half_of_what_was_too_much() -> None:
    size = BatchSize(1_000)
    size.timed_out(40)
    assert size.value == 20


def test_a_fixed_size_comes_back_slowly_after_a_time_out() -> None:
    size = BatchSize(1_000)
    size.timed_out(1_000)
    size.took(500, 0.01)
    assert size.value == 550
    assert settled(size, 0.01) == 1_000


@given(st.lists(st.tuples(st.integers(0, MOST), st.floats(0, 100)) | st.none()))
def test_it_is_never_out_of_bounds(batches: list[tuple[int, float] | None]) -> None:
    size = BatchSize()
    for batch in batches:
        if batch is None:
            size.timed_out(size.value)
        else:
            size.took(min(batch[0], size.value), batch[1])
        assert 1 <= size.value <= MOST

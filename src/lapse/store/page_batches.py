"""Long work on a table of PostgreSQL in short batches of its pages, beside those who use it."""

from __future__ import annotations

import time
from collections.abc import Callable

BATCH_SECONDS = 0.05
"""The target duration of a batch: so long a writer may wait for a row that the batch has locked."""
FIRST_PAGES, MAX_PAGES = 8, 1_024


def in_page_batches(
    pages: int,
    work: Callable[[int, int], None],
    *,
    wait: Callable[[float], object] = lambda _seconds: None,
    on_batch: Callable[[int, int], None],
) -> None:
    """Do the work of each range of pages, whose size follows the time that the last one took.

    Args:
        pages: of the table.
        work: receives the first page of a batch, and the first one after it.
        wait: called with 0 between batches; may raise to stop.
        on_batch: receives the number of pages that are done, and their total.
    """
    first, size = 0, FIRST_PAGES
    while first < pages:
        wait(0)
        begin, end = time.monotonic(), first + size
        work(first, end)
        first = end
        seconds = max(time.monotonic() - begin, 0.001)
        size = max(1, min(MAX_PAGES, 2 * size, int(size * BATCH_SECONDS / seconds)))
        on_batch(min(first, pages), pages)

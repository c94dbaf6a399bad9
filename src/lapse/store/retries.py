"""How long a call waits before it tries again what a lost connection or a busy database made fail."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

RETRY_TIMEOUT_SECONDS = 10
"""No attempt begins later than this after the first one failed."""
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 2.0
JITTER_SECONDS = 1.0
"""At most this is added to a pause by chance, so that all callers of a lost server do not come back at once."""
MAX_RETRIES = 6


def retry_pauses(clock: Callable[[], float] = time.monotonic) -> Iterator[float]:
    """Yield the seconds to wait before each further attempt; the end means to give up. `clock` returns seconds.

    The first one is at once: a connection that was cut says nothing about the next one.
    """
    begin = clock()
    yield 0.0
    for number in range(MAX_RETRIES - 1):
        jitter = random.uniform(0, JITTER_SECONDS)  # noqa: S311 - nothing secret
        pause = min(FIRST_PAUSE_SECONDS * 2**number + jitter, MAX_PAUSE_SECONDS)
        if clock() + pause > begin + RETRY_TIMEOUT_SECONDS:
            return
        yield pause

"""The pool: whoever is interrupted while it takes a connection, or gives it back, shares it with nobody."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from lapse.store.pool import Pool

SECONDS = 2.0
LONGEST_SECONDS = 400e-6


class SoftLimitError(Exception):
    """What a task queue's time limit raises."""


class Connection:
    """What a pool knows of one, and who uses it."""

    shared = 0
    closed_in_use = 0

    def __init__(self) -> None:
        self.user: int | None = None
        self.is_usable = True

    def is_idle(self) -> bool:
        return self.is_usable

    def is_lost(self, _error: Exception) -> bool:
        return not self.is_usable

    def discard(self) -> None:
        Connection.closed_in_use += self.user not in (None, threading.get_ident())
        self.is_usable = False

    def work(self) -> None:
        """Use it for a moment; cut short, it is not usable any more."""
        me = threading.get_ident()
        try:
            Connection.shared += self.user is not None
            self.user = me
            for _ in range(30):
                pass
            Connection.shared += self.user != me
        except SoftLimitError:
            self.is_usable = False
            raise
        finally:
            self.user = None


@pytest.fixture
def _quick_switches() -> Iterator[None]:
    """Let threads take turns a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_quick_switches")
def test_an_interrupted_caller_shares_its_connection_with_nobody() -> None:
    pool, is_over, chance = Pool(Connection, 1), threading.Event(), random.Random(7)
    is_armed, interrupted = False, 0

    def strike(*_: object) -> None:
        if is_armed:
            raise SoftLimitError

    def use_all_the_time() -> None:
        while not is_over.is_set():
            pool.use(Connection.work)

    before = signal.signal(signal.SIGALRM, strike)
    others = [threading.Thread(target=use_all_the_time) for _ in range(2)]
    for other in others:
        other.start()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        try:
            is_armed = True
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(20e-6, LONGEST_SECONDS))
            pool.use(Connection.work)
            is_armed = False
        except SoftLimitError:
            interrupted += 1
        finally:
            is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
    is_over.set()
    for other in others:
        other.join()
    signal.signal(signal.SIGALRM, before)
    assert interrupted > 100
    assert (Connection.shared, Connection.closed_in_use) == (0, 0)

"""A database whose transactions can be held just before their COMMIT, with all their locks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from lapse import Database

T = TypeVar("T")
PATIENCE_SECONDS = 30


class Hold:
    """Holds one transaction: the `number`th from now on."""

    def __init__(self, number: int = 1) -> None:
        self._left = number
        self._reached = threading.Event()
        self._released = threading.Event()
        self.is_held = False

    def pause(self) -> None:
        """Wait here, if it is this transaction."""
        self._left -= 1
        if self._left == 0:
            self.is_held = True
            self._reached.set()
            assert self._released.wait(PATIENCE_SECONDS), "held, and never let go"

    def wait(self) -> None:
        """Wait until the transaction is held, or will not come."""
        assert self._reached.wait(PATIENCE_SECONDS), "the transaction did not come"

    def give_up(self) -> None:
        """Say that no further transaction comes."""
        self._reached.set()

    def release(self) -> None:
        """Let it commit."""
        self._released.set()


class HoldingDatabase(Database):
    """Runs single statements in transactions, too, so that they can be held."""

    hold: Hold | None = None

    def transaction(self, work: Callable[[Any], T], *, retry: bool = True) -> T:
        """Run it as ever, held before its COMMIT if there is a hold."""
        hold = self.hold
        if hold is None:
            return super().transaction(work, retry=retry)

        def held(connection: Any) -> T:
            result = work(connection)
            hold.pause()
            return result

        return super().transaction(held, retry=retry)

    def autocommit(self, work: Callable[[Any], T], *, reads_only: bool = False, retry: bool = True) -> T:
        """Run it as ever where there is no hold."""
        if self.hold is None:
            return super().autocommit(work, reads_only=reads_only, retry=retry)
        return self.transaction(work, retry=retry)

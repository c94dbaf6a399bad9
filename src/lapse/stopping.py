"""Stopping: a flag that wakes every wait, and the signals that raise it."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Set once, from a signal handler or any thread; every wait returns at once then.

    Not `threading.Event`: a handler that sets one while the same thread is inside its lock waits for ever.
    """

    def __init__(self) -> None:
        """Make a flag that is not set."""
        self._is_set = False
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    def set(self) -> None:
        """Raise the flag and wake who waits."""
        if not self._is_set:
            self._is_set = True
            self._writer.send(b"\0")

    def is_set(self) -> bool:
        """Tell whether the flag is up."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait at most so many seconds for the flag; tell whether it is up."""
        if not self._is_set:
            select.select([self._reader], [], [], max(seconds, 0))
        return self._is_set


@contextmanager
def stop_on_signals(flag: StopFlag) -> Iterator[None]:
    """Raise the flag on SIGTERM and SIGINT; only for the main thread. The old handlers come back afterwards."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        flag.set()

    previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

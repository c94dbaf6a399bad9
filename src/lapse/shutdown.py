"""Stopping: a flag that wakes every wait, and the signals that raise it."""

from __future__ import annotations

import math
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOP_GRACE_SECONDS = 5.0
"""How long a stop waits for the batch in hand, which may wait for another program's lock itself."""
_LONGEST_POLL_SECONDS = 24 * 60 * 60
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A stop signal came while interruptible work was done. No `Exception`: nothing on the way may swallow it."""


class StopEvent:
    """Set once, from a signal handler or any thread; every wait returns at once then.

    Not `threading.Event`: a handler that sets one while the same thread is inside its lock waits for ever.
    """

    def __init__(self) -> None:
        """Make a flag that is not set."""
        self._is_set = False
        self._wakers: list[socket.socket] = []
        self._is_interruptible = False
        self._grace_seconds = 0.0
        self._has_alarm = False

    def set(self) -> None:
        """Raise the flag and wake who waits."""
        self._is_set = True
        for waker in tuple(self._wakers):
            # The wait may be over, and its socket closed, at this very moment.
            with suppress(OSError):
                waker.send(b"\0")

    def is_set(self) -> bool:
        """Tell whether the flag is up."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait at most so many seconds for the flag; tell whether it is up."""
        waiter, waker = socket.socketpair()
        with waiter, waker:
            self._wakers.append(waker)
            # Looked at after the waker is in its place: a flag raised in between is not missed.
            if not self._is_set:
                # Not `select`, which knows no file descriptors from 1024 on.
                poll = select.poll()
                poll.register(waiter, select.POLLIN)
                poll.poll(math.ceil(1_000 * min(max(seconds, 0), _LONGEST_POLL_SECONDS)))
            self._wakers.remove(waker)
        return self._is_set

    @contextmanager
    def interruptible(self, grace_seconds: float = 0.0) -> Iterator[None]:
        """Let a stop signal end the work inside: for work that may wait long and can be left at any point.

        Args:
            grace_seconds: how long after the signal the work may still come to its own end.

        Raises:
            Interrupted: the flag is up, or a signal raised it meanwhile. Only signals interrupt, not `set`.
        """
        self._is_interruptible, self._grace_seconds = True, grace_seconds
        try:
            if self._is_set:
                raise Interrupted
            yield
        finally:
            self._is_interruptible = False
            if self._has_alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
                self._has_alarm = False

    def on_signal(self) -> None:
        """Raise the flag from a signal handler.

        Raises:
            Interrupted: the main thread is inside `interruptible`.
        """
        self.set()
        if not self._is_interruptible:
            return
        if self._grace_seconds:
            if self._has_alarm:
                return  # an impatient second signal must not begin the patience anew
            self._has_alarm = True
            signal.setitimer(signal.ITIMER_REAL, self._grace_seconds)
        else:
            raise Interrupted

    def on_alarm(self) -> None:
        """End the work that a stop signal has waited for, from the handler of SIGALRM.

        Raises:
            Interrupted: the main thread is inside `interruptible`.
        """
        if self._is_interruptible:
            raise Interrupted


@contextmanager
def stop_on_signals(flag: StopEvent) -> Iterator[None]:
    """Raise the flag on SIGTERM and SIGINT; only for the main thread. The old handlers come back afterwards."""

    def handle(number: int, _frame: FrameType | None) -> None:
        flag.on_alarm() if number == signal.SIGALRM else flag.on_signal()

    with _handled_by(handle, *STOP_SIGNALS, signal.SIGALRM):
        yield


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """End the process with 0, at once, on SIGTERM and SIGINT: for a start, while nothing is open yet.

    An exception out of the handler would end an import half-way, with its files open. Only for the main thread. The
    old handlers come back afterwards.
    """
    with _handled_by(lambda *_: os._exit(0), *STOP_SIGNALS):
        yield


def ignore_stop_signals() -> None:
    """Let no further signal change the exit code of a command that is done; Python's own end takes a while.

    Inside `exit_on_signals`, at its end: between two handlers that come back, a signal would find the default one.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            if signal.getsignal(number) == handler:  # what was put in its place inside is there to stay
                signal.signal(number, before)

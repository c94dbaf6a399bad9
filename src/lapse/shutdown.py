"""Shutdown: an event that wakes every wait, and the signals that set it."""

from __future__ import annotations

import math
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType

STOP_GRACE_SECONDS = 5.0
"""Grace period of a stop: how long it waits for the current batch, which may itself wait for a lock."""
_LONGEST_POLL_SECONDS = 24 * 60 * 60
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A stop signal arrived during interruptible work. Not an `Exception`, so that no `except` clause catches it."""


class StopEvent:
    """An event that is set once, from a signal handler or any thread; every wait for it then returns immediately.

    `threading.Event` would deadlock: its lock may be held by the very thread whose signal handler sets it.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wakers: list[socket.socket] = []
        self._grace_seconds: float | None = None  # None: the main thread is not inside `interruptible`
        self._is_grace_period = False

    def set(self) -> None:
        """Set the event and wake all waiting threads."""
        self._is_set = True
        for waker in tuple(self._wakers):
            # The wait may just have ended and closed its socket.
            with suppress(OSError):
                waker.send(b"\0")

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait until the event is set, for at most `seconds` (0 or less: do not wait); return whether it is set."""
        waiter, waker = socket.socketpair()
        with waiter, waker:
            self._wakers.append(waker)
            # Checked once the waker is registered, so that a `set` in between is not missed.
            if not self._is_set:
                # Not `select.select`, which is limited to file descriptors below 1024.
                poll = select.poll()
                poll.register(waiter, select.POLLIN)
                poll.poll(math.ceil(1_000 * min(max(seconds, 0), _LONGEST_POLL_SECONDS)))
            self._wakers.remove(waker)
        return self._is_set

    @contextmanager
    def interruptible(self, grace_seconds: float = 0.0) -> Iterator[None]:
        """Let a stop signal interrupt the block, which can be abandoned at any point, after `grace_seconds`.

        Raises:
            Interrupted: the event was set before, or a signal arrived inside. `set` alone does not interrupt.
        """
        self._grace_seconds = grace_seconds
        try:
            if self._is_set:
                raise Interrupted
            yield
        finally:
            self._grace_seconds = None
            if self._is_grace_period:
                signal.setitimer(signal.ITIMER_REAL, 0)
                self._is_grace_period = False

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Handle a stop signal, or SIGALRM, which ends the grace period.

        Raises:
            Interrupted: the main thread is inside `interruptible`, and its grace period, if it has one, is over.
        """
        is_alarm = number == signal.SIGALRM
        if not is_alarm:
            self.set()
        if self._grace_seconds is None:
            return
        if is_alarm or not self._grace_seconds:
            raise Interrupted
        if not self._is_grace_period:  # a second signal must not restart it
            self._is_grace_period = True
            signal.setitimer(signal.ITIMER_REAL, self._grace_seconds)


def stop_on_signals(stop_event: StopEvent) -> AbstractContextManager[None]:
    """Set the event on SIGTERM and SIGINT; main thread only. The previous handlers are restored on exit."""
    return _handled_by(stop_event.on_signal, *STOP_SIGNALS, signal.SIGALRM)


def exit_on_signals() -> AbstractContextManager[None]:
    """As `stop_on_signals`, but exit the process with status 0 immediately: for startup, while nothing is open yet.

    An exception from the handler would interrupt an import, and leave its files open.
    """
    return _handled_by(lambda *_: os._exit(0), *STOP_SIGNALS)


def ignore_stop_signals() -> None:
    """Ignore stop signals from now on: during interpreter shutdown they would change the exit code.

    Call it last inside `exit_on_signals`: after that block a signal would meet the default handler.
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
            if signal.getsignal(number) == handler:  # else the block installed another one, which stays
                signal.signal(number, before)

"""A pool that lends connections in the order of requests, and never one that is not idle.

A caller may be interrupted at any instruction: by a signal handler that raises, or by an exception that another thread
injects (the time limits of task queues). Whatever such a caller held is closed, and its place given to the next one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple
from weakref import WeakSet, ref

from lapse.store import limits

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

WAIT_SECONDS = 10.0
"""How long a caller without a limit of its own waits for a connection."""
_LOOK_SECONDS = 0.25
"""Who waits looks at the queue at least so often: the one who should have woken it may have been interrupted."""
_ABSENT_SECONDS = 2.0
"""Who has not looked for so long has been interrupted while it waited."""


class Poolable(Protocol):
    """What a pool needs of a driver's connection."""

    def is_idle(self) -> bool:
        """Tell whether it is connected, in no transaction, and in no statement."""
        ...

    def is_lost(self, error: Exception) -> bool:
        """Tell whether after this error it, and so each of the pool, is of no more use: the server has gone away."""
        ...

    def discard(self) -> None:
        """Close it, whatever it is doing. Raises nothing of the database's."""
        ...


C = TypeVar("C", bound=Poolable)


class PoolTimeoutError(Exception):
    """All connections were in use for too long."""


class _Slot(Generic[C]):
    """A place for one connection, with the connection."""

    __slots__ = ("__weakref__", "connection")

    def __init__(self) -> None:
        self.connection: C | None = None


class _Waiter:
    """One caller in the queue."""

    __slots__ = ("seen", "wake")

    def __init__(self) -> None:
        self.seen = time.monotonic()
        self.wake = threading.Lock()
        self.wake.acquire()


class Pool(Generic[C]):
    """Lends connections of one kind, each to one caller at a time, the last one that was given back first."""

    def __init__(self, connect: Callable[[], C], size: int) -> None:
        """Lend at most `size` connections at a time, made by `connect`; nothing is connected yet."""
        self._connect = connect
        self._size = size
        self._clear()
        _pools.add(self)

    def use(self, work: Callable[[C, *Ts], T], *arguments: *Ts) -> T:
        """Run `work` with a connection, waiting for one at most as long as the call may take.

        Args:
            work: is given the connection, and these arguments.
            arguments: what else it takes.

        Raises:
            PoolTimeoutError: none became free in time.
            Exception: what `work` or connecting raises.
        """
        # Whose a slot is changes in one step, which nothing can come between, and no other name keeps it: an exception
        # that is known for long would keep the slot, too.
        held: list[_Slot[C]] = []
        try:
            self._acquire(held)
            connection = held[0].connection
            if connection is None:
                connection = held[0].connection = self._connect()
            try:
                return work(connection, *arguments)
            except Exception as error:
                if connection.is_lost(error):
                    connection.discard()
                    # What cut this connection has cut the others, too.
                    self.close()
                raise
        finally:
            try:
                self._release(held)
            except BaseException:
                self._release(held)  # interrupted: once more, from wherever it was
                raise

    def close(self) -> None:
        """Close all connections that are not lent."""
        while self._idle:
            try:
                slot = self._idle.pop()
            except IndexError:  # another thread was faster
                return
            self._drop(slot)

    def forget_after_fork(self) -> None:
        """Leave the connections to the parent process: whoever shares one gets the answers meant for another."""
        # Kept, since to collect them would be to close them, and say goodbye to the server in the parent's name.
        _parents_connections.extend(self._idle)
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.RLock()
        """Guards the queue and the slots; taking an idle slot and putting it back are atomic without it. Reentrant: a
        signal handler may call the service."""
        self._idle: list[_Slot[C]] = []
        self._slots: list[ref[_Slot[C]]] = []
        """All that there are. Weak: what a caller held that was interrupted in the very moment of taking it, or of
        giving it back, is gone, and its connection closed. No callbacks, in which an interruption would be lost."""
        self._queue: deque[_Waiter] = deque()

    def _acquire(self, held: list[_Slot[C]]) -> None:
        if not self._queue:
            try:
                held.append(self._idle.pop())
            except IndexError:
                pass
            else:
                return
        waiter = _Waiter()
        try:
            self._wait_in_queue(waiter, held)
        finally:
            try:
                self._leave_queue(waiter)
            except BaseException:
                self._leave_queue(waiter)
                raise

    def _release(self, held: list[_Slot[C]]) -> None:
        """Take back what a caller held; may be called again after an interruption."""
        if held:
            connection = held[0].connection
            if connection is not None and connection.is_idle():
                self._idle.append(held.pop())
            else:
                self._drop(held[0])
                held.clear()
        if self._queue:
            with self._lock:
                self._wake_first()

    def _drop(self, slot: _Slot[C]) -> None:
        if slot.connection is not None:
            slot.connection.discard()
        with self._lock:
            self._slots = [known for known in self._slots if known() not in (None, slot)]

    def _wait_in_queue(self, waiter: _Waiter, held: list[_Slot[C]]) -> None:
        limit = limits.current()
        give_up_at = time.monotonic() + (WAIT_SECONDS if limit.remaining is None else limit.remaining)
        while True:
            with self._lock:
                waiter.seen = now = time.monotonic()
                if waiter not in self._queue:
                    self._queue.append(waiter)
                if self._first_in_queue(now) is waiter:
                    self._acquire_free_slot(held)
            if held:
                return
            if now >= give_up_at or limit.is_stopping():
                raise PoolTimeoutError(f"all {self._size} connections of this process stayed in use")
            waiter.wake.acquire(timeout=min(give_up_at - now, _LOOK_SECONDS))

    def _leave_queue(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in self._queue:
                self._queue.remove(waiter)
            self._wake_first()  # there may be room for the next one, too

    def _acquire_free_slot(self, held: list[_Slot[C]]) -> None:
        """Take one with an idle connection, or a new one where there is room; under the lock."""
        try:
            held.append(self._idle.pop())
        except IndexError:
            self._slots = [known for known in self._slots if known() is not None]
            if len(self._slots) < self._size:
                held.append(_Slot())
                self._slots.append(ref(held[0]))

    def _first_in_queue(self, now: float) -> _Waiter | None:
        # Who has not looked for so long was interrupted; or the whole process was stopped, and it comes back.
        while self._queue and self._queue[0].seen < now - _ABSENT_SECONDS:
            self._queue.popleft()
        return self._queue[0] if self._queue else None

    def _wake_first(self) -> None:
        first = self._first_in_queue(time.monotonic())
        if first is not None and first.wake.locked():
            first.wake.release()


_pools: WeakSet[Pool[Any]] = WeakSet()
_parents_connections: list[object] = []


def _forget_after_fork() -> None:
    for pool in tuple(_pools):
        pool.forget_after_fork()


# A server that loads the application and then forks (gunicorn's preload, say) has used the service by then.
os.register_at_fork(after_in_child=_forget_after_fork)

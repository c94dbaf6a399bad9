"""Lending connections: first come, first served, and never one that is not idle.

A caller may be interrupted at any instruction: by a signal handler that raises, or by an exception that another thread
injects (the time limits of task queues). Whatever such a caller held is closed, and its place given to the next one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet, ref

from lapse.store import limits

T = TypeVar("T")

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

    def is_lost(self) -> bool:
        """Tell whether the server has gone away."""
        ...

    def discard(self) -> None:
        """Close it, whatever it is doing. Raises nothing of the database's."""
        ...


C = TypeVar("C", bound=Poolable)


class PoolTimeoutError(Exception):
    """All connections were in use for too long."""


class _Lease(Generic[C]):
    """One caller's place in the queue, then its place among those that have a connection."""

    __slots__ = ("__weakref__", "connection", "seen", "wake")

    def __init__(self) -> None:
        self.connection: C | None = None
        self.wake = threading.Lock()
        self.seen = 0.0


class Pool(Generic[C]):
    """Lends connections of one kind, each to one caller at a time, the last one that was given back first."""

    def __init__(self, connect: Callable[[], C], size: int) -> None:
        """Lend at most `size` connections at a time, made by `connect`; nothing is connected yet."""
        self._connect = connect
        self._size = size
        self._clear()
        _pools.add(self)

    def use(self, work: Callable[[C], T], *, is_fatal: Callable[[Exception], bool] = lambda error: False) -> T:
        """Run `work` with a connection, waiting for one at most as long as the call may take.

        Args:
            work: is given the connection.
            is_fatal: tells of an error of `work` that no connection of this pool may be lent again.

        Raises:
            PoolTimeoutError: none became free in time.
            Exception: what `work` or connecting raises.
        """
        lease: _Lease[C] = _Lease()
        try:
            connection = self._acquire(lease)
            try:
                return work(connection)
            except Exception as error:
                if connection.is_lost() or is_fatal(error):
                    self._drop(lease)
                    # What cut this connection has cut the others, too.
                    self.close()
                raise
        finally:
            try:
                self._release(lease)
            except BaseException:
                self._release(lease)  # interrupted: once more, from wherever it was
                raise

    def close(self) -> None:
        """Close all connections that are not lent."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                return
            connection.discard()

    def forget_after_fork(self) -> None:
        """Leave the connections to the parent process: whoever shares one gets the answers meant for another."""
        # Kept, since to collect them would be to close them, and say goodbye to the server in the parent's name.
        _parents_connections.extend(self._idle)
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[C] = []
        self._places: list[ref[_Lease[C]]] = []
        """One for each caller that has a connection or makes one. Weak: a caller whose release was interrupted is gone
        with its lease. Without callbacks, in which an interruption would be lost."""
        self._queue: deque[_Lease[C]] = deque()

    def _acquire(self, lease: _Lease[C]) -> C:
        with self._lock:
            is_granted = not self._queue and self._grant(lease)
            if not is_granted:
                lease.seen = time.monotonic()
                lease.wake.acquire(blocking=False)
                self._queue.append(lease)
        if not is_granted:
            self._wait_in_queue(lease)
        if lease.connection is None:
            lease.connection = self._connect()
        return lease.connection

    def _grant(self, lease: _Lease[C]) -> bool:
        """Give a place, with a connection if there is one; under the lock."""
        if len(self._places) >= self._size:
            self._places = [place for place in self._places if place() is not None]
        if len(self._places) >= self._size:
            return False
        self._places.append(ref(lease))
        if self._idle:
            lease.connection = self._idle.pop()
        return True

    def _wait_in_queue(self, lease: _Lease[C]) -> None:
        remaining = limits.current().remaining
        give_up_at = time.monotonic() + (WAIT_SECONDS if remaining is None else remaining)
        while True:
            left = give_up_at - time.monotonic()
            lease.wake.acquire(timeout=max(min(left, _LOOK_SECONDS), 0.0))
            with self._lock:
                lease.seen = time.monotonic()
                if self._first_in_queue() is lease and self._grant(lease):
                    self._queue.popleft()
                    self._wake_first()  # there may be room for another one
                    return
                if lease not in self._queue:
                    self._queue.append(lease)  # the process was stopped for a while, and all looked absent
            if left <= 0:
                raise PoolTimeoutError(f"all {self._size} connections of this process stayed in use")

    def _first_in_queue(self) -> _Lease[C] | None:
        absent_since = time.monotonic() - _ABSENT_SECONDS
        while self._queue and self._queue[0].seen < absent_since:
            self._queue.popleft()
        return self._queue[0] if self._queue else None

    def _wake_first(self) -> None:
        first = self._first_in_queue()
        if first is not None and first.wake.locked():
            first.wake.release()

    def _drop(self, lease: _Lease[C]) -> None:
        if lease.connection is not None:
            lease.connection.discard()
            lease.connection = None

    def _release(self, lease: _Lease[C]) -> None:
        """Take back whatever the caller had; may be called again after an interruption."""
        if lease.connection is not None and not lease.connection.is_idle():
            self._drop(lease)
        with self._lock:
            # Never in two places: lost in between, it closes itself.
            connection, lease.connection = lease.connection, None
            if connection is not None:
                self._idle.append(connection)
            if (place := ref(lease)) in self._places:
                self._places.remove(place)
            if self._queue:
                if lease in self._queue:
                    self._queue.remove(lease)
                self._wake_first()


_pools: WeakSet[Pool[Any]] = WeakSet()
_parents_connections: list[object] = []


def _forget_after_fork() -> None:
    for pool in tuple(_pools):
        pool.forget_after_fork()


# A server that loads the application and then forks (gunicorn's preload, say) has used the service by then.
os.register_at_fork(after_in_child=_forget_after_fork)

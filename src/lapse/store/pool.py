"""Lending connections: SQLAlchemy's pool, and in front of it one spare connection that costs nothing to take."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy.pool import PoolProxiedConnection

from lapse.store.driver_errors import is_read_only

T = TypeVar("T")


class Pool:
    """Lends the driver's connections, each to one caller at a time.

    To take a connection from SQLAlchemy's pool and give it back is a sixth of a message's time on SQLite. So the one
    that was given back last stays here, unless somebody waits for one there.
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Lend connections of this engine."""
        self._engine = engine
        # Lists, since no other thread can come into the middle of an append or a pop.
        self._spare: list[PoolProxiedConnection] = []
        self._waiting: list[None] = []
        _pools.add(self)

    def lend(self, work: Callable[[Any], T]) -> T:
        """Run `work` with a connection. One that is lost, only reads, or was left in a statement, is not lent again.

        Raises:
            Exception: what `work` raises, what connecting raises, or SQLAlchemy's TimeoutError: none became free.
        """
        pooled = self._take()
        try:
            return work(pooled.driver_connection)
        except Exception as error:
            if is_broken(pooled.driver_connection) or is_read_only(error):
                pooled.invalidate(error)
                # What cut this connection has cut the others, too.
                self.close()
            raise
        except BaseException as error:
            # A stop in the middle of a statement: nobody knows what the connection would say next.
            pooled.invalidate(error)
            raise
        finally:
            self._give_back(pooled)

    def close(self) -> None:
        """Close all connections that are not lent."""
        self._give_up_spare()
        self._engine.dispose()

    def forget_after_fork(self) -> None:
        """Leave the connections to the parent process: whoever shares one gets the answers meant for another."""
        # Kept, since to collect them would be to close them, and say goodbye to the server in the parent's name.
        _parents_connections.append((*self._spare, self._engine.pool))
        self._spare.clear()
        self._waiting.clear()
        self._engine.dispose(close=False)

    def _take(self) -> PoolProxiedConnection:
        try:
            return self._spare.pop()
        except IndexError:
            self._waiting.append(None)
        try:
            # Looked for once more, now that whoever leaves a spare one sees somebody waiting.
            return self._spare.pop()
        except IndexError:
            return self._engine.raw_connection()
        finally:
            self._waiting.pop()

    def _give_back(self, pooled: PoolProxiedConnection) -> None:
        if self._spare or not pooled.is_valid:
            pooled.close()
            return
        self._spare.append(pooled)
        if self._waiting:
            self._give_up_spare()

    def _give_up_spare(self) -> None:
        try:
            self._spare.pop().close()
        except IndexError:
            return


_pools: WeakSet[Pool] = WeakSet()
_parents_connections: list[object] = []


def _forget_after_fork() -> None:
    for pool in tuple(_pools):
        pool.forget_after_fork()


# A server that loads the application and then forks (gunicorn's preload, say) has used the service by then.
os.register_at_fork(after_in_child=_forget_after_fork)


def is_broken(driver_connection: Any) -> bool:
    """Tell whether a connection is lost; a SQLite file has none to lose."""
    return bool(getattr(driver_connection, "closed", False) or getattr(driver_connection, "broken", False))

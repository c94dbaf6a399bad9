"""Connections to PostgreSQL for an event loop: psycopg's, with the ways of `drivers.postgresql`; and their pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

import psycopg
from psycopg.abc import PQGen

from lapse.store import limits
from lapse.store.drivers import postgresql
from lapse.store.drivers.postgresql import CANCEL_SECONDS, MIN_CANCEL_SECONDS, ExpiredError
from lapse.store.pool import WAIT_SECONDS, PoolTimeoutError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class AsyncPostgresqlConnection(postgresql.Session, psycopg.AsyncConnection[tuple[Any, ...]]):
    """One session, in autocommit mode; its waits end when the time of the call is up, or it is cancelled."""

    async def run(self, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows.

        Raises:
            OverdueError: the time of the call was up.
            psycopg.Error: anything else.
        """
        cursor = await self.execute(sql, values, binary=True)
        return await cursor.fetchall() if cursor.pgresult is not None and cursor.pgresult.nfields else []

    async def wait(self, gen: PQGen[Any], *arguments: Any, **options: Any) -> Any:
        """Wait for the server as psycopg does, but no longer than the call may take.

        Where the caller is cancelled, psycopg cancels the statement, and awaits what comes of it.
        """
        deadline = limits.current().deadline
        if deadline is None:
            return await super().wait(gen, *arguments, **options)
        self.is_overdue = False
        try:
            return await super().wait(postgresql.until(deadline - CANCEL_SECONDS, gen), *arguments, **options)
        except ExpiredError:
            self.is_overdue = True
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # it expired while the caller's cancellation was carried out
        with suppress(psycopg.Error):
            await self.cancel_safe(timeout=max(deadline - time.monotonic(), MIN_CANCEL_SECONDS))
        with postgresql.last_answer(self):
            return await super().wait(postgresql.until(deadline, gen), *arguments, **options)


async def connect(arguments: Mapping[str, Any], json_text: Callable[[Any], str]) -> AsyncPostgresqlConnection:
    """Connect; as `drivers.postgresql.connect`."""
    parameters = postgresql.parameters(arguments)
    connection = await AsyncPostgresqlConnection.connect(autocommit=True, prepare_threshold=None, **parameters)
    try:
        postgresql.adapt(connection, json_text)
        cursor = await connection.execute(postgresql.ISOLATION)
        connection.is_read_committed = await cursor.fetchone() == postgresql.READ_COMMITTED
    except BaseException:
        await connection.close()
        raise
    return connection


class AsyncPool:
    """Lends connections, each to one caller at a time, first come, first served, and never one that is not idle."""

    def __init__(self, connect: Callable[[], Awaitable[AsyncPostgresqlConnection]], size: int) -> None:
        """Lend at most `size` connections at a time, made by `connect`; nothing is connected yet."""
        self._connect, self._size = connect, size
        self._free = asyncio.Semaphore(size)
        self._idle: list[AsyncPostgresqlConnection] = []

    async def use(self, work: Callable[[AsyncPostgresqlConnection, *Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """Do `work` with a connection, waiting for one at most as long as the call may take; as `pool.Pool.use`.

        Raises:
            PoolTimeoutError: none became free in time.
            Exception: what `work` or connecting raises.
        """
        remaining = limits.current().remaining
        try:
            async with asyncio.timeout(WAIT_SECONDS if remaining is None else remaining):
                await self._free.acquire()
        except TimeoutError:
            raise PoolTimeoutError(f"all {self._size} connections of this process stayed in use") from None
        connection: AsyncPostgresqlConnection | None = None
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            return await work(connection, *arguments)
        except Exception as error:
            if connection is not None and connection.is_lost(error):
                await connection.close()
                # What cut this connection has cut the others, too.
                await self.close()
            raise
        finally:
            self._free.release()
            if connection is not None:
                if connection.is_idle():
                    self._idle.append(connection)
                else:
                    await connection.close()

    async def close(self) -> None:
        """Close all connections that are not lent."""
        while self._idle:
            await self._idle.pop().close()

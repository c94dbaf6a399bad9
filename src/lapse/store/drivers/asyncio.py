"""Connections to PostgreSQL for an event loop: psycopg's, with the ways of `drivers.postgresql`; and their pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from lapse.store import limits
from lapse.store.cancellation import outlast
from lapse.store.drivers import postgresql
from lapse.store.drivers.postgresql import CANCEL_SECONDS, MIN_CANCEL_SECONDS, ExpiredError
from lapse.store.pool import WAIT_SECONDS, PoolTimeoutError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CANCELLED_CALL_SECONDS = 5.0
"""How long the caller of a cancelled call waits for the end of its statement, on a server that is silent."""
_CANCEL_AGAIN_SECONDS = 0.3
"""A pooler forgets that a statement was cancelled which waits for a session, and begins it later."""
_LOOK_SECONDS = 0.1
"""Who waits for the server looks at the time at least so often."""


class AsyncPostgresqlConnection(postgresql.Session, psycopg.AsyncConnection[tuple[Any, ...]]):
    """One session, in autocommit mode; its waits end when the time of the call is up, or it is cancelled."""

    async def run(self, sql: str, values: Mapping[str, Any], is_lazy: bool = False) -> Any:
        """Run a statement and return its rows; lazily, as `LazyCells`.

        Raises:
            OverdueError: the time of the call was up.
            psycopg.Error: anything else.
        """
        cursor = await self.execute(sql, values, binary=True)
        if is_lazy:
            return postgresql.LazyCells(self, cursor.pgresult)
        return await cursor.fetchall() if cursor.pgresult is not None and cursor.pgresult.nfields else []

    async def wait(self, gen: PQGen[Any], *_: Any, **__: Any) -> Any:
        """Wait for the server as psycopg does, but no longer than the call may take.

        Where the caller is cancelled, the statement is, too, and what comes of it is awaited first. Not psycopg's own
        way, which a second cancellation cuts short: the statement would go on, and nobody know of it.
        """
        self.is_overdue = False
        deadline = limits.current().deadline
        try:
            return await self._wait(gen if deadline is None else postgresql.until(deadline - CANCEL_SECONDS, gen))
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await outlast(self._cancelled_answer(gen, time.monotonic() + CANCELLED_CALL_SECONDS))
            raise
        except ExpiredError:
            self.is_overdue = True
        answer = self._cancelled_answer(gen, deadline or time.monotonic())
        if await outlast(answer):
            raise asyncio.CancelledError
        with postgresql.last_answer(self):
            return answer.result()

    def _cancelled_answer(self, gen: PQGen[Any], deadline: float) -> asyncio.Task[Any]:
        """Cancel the statement, and return the task that waits for what the server says to that."""

        async def answer() -> Any:
            while True:
                with suppress(psycopg.Error):
                    await self.cancel_safe(timeout=max(deadline - time.monotonic(), MIN_CANCEL_SECONDS))
                again_at = min(time.monotonic() + _CANCEL_AGAIN_SECONDS, deadline)
                try:
                    return await self._wait(postgresql.until(again_at, gen))
                except ExpiredError:
                    if time.monotonic() >= deadline:
                        raise

        return asyncio.create_task(answer())

    async def _wait(self, gen: PQGen[Any]) -> Any:
        return await waiting.wait_async(gen, self.pgconn.socket, _LOOK_SECONDS)


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

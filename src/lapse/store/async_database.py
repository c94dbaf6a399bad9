"""One database, for an event loop: does the steps of operations as `store.database` does for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Any, TypeVar, TypeVarTuple

from lapse.store.database import MAX_CONNECTIONS, Clock, Database
from lapse.store.driver_errors import UnsupportedStatementError
from lapse.store.engines import async_connector
from lapse.store.limits import ended_by
from lapse.store.operations import Step, Steps
from lapse.store.operations.schema import read_shape
from lapse.store.retries import Pause
from lapse.store.statements import Statements

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class AsyncDatabase:
    """Connections of one event loop to PostgreSQL; on SQLite, threads that do what `Database` does."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        """Prepare it; arguments and errors as `Database`."""
        self.blocking = Database(url, clock)
        """The same database for threads: what both know of it, and migrations."""
        self._executor: ThreadPoolExecutor | None = None
        if self.blocking.dialect == "sqlite":
            self._executor = ThreadPoolExecutor(MAX_CONNECTIONS, "lapse-sqlite")
        else:
            from lapse.store.drivers.asyncio import AsyncPool  # needs psycopg, which SQLite does without

            self._pool = AsyncPool(async_connector(self.blocking.engine.url), MAX_CONNECTIONS)

    async def close(self) -> None:
        """Close all connections."""
        if self._executor is None:
            await self._pool.close()
        else:
            self._executor.shutdown()
        self.blocking.close()

    async def run(
        self,
        operation: Callable[[Statements, *Ts], Steps[T]],
        *arguments: *Ts,
        reads_only: bool = False,
        retry: bool = True,
        statements: Statements | None = None,
    ) -> T:
        """Do an operation's steps and return what it returns; arguments and errors as `Database.run`.

        Where the caller is cancelled, the step in hand is ended or has ended before this returns: what was not done by
        then is not done later.
        """
        if self._executor is not None:
            work = partial(self.blocking.run, operation, *arguments, reads_only=reads_only, retry=retry)
            return await _in_thread(self._executor, work)
        sql = statements or self.blocking.statements or await self._read_shape(retry=retry)
        retries = self.blocking.retries
        result: Any = None
        problem: Exception | None = None
        attempts = retries.attempts(operation(sql, *arguments), retry=retry)
        try:
            step = next(attempts)
            while True:
                try:
                    do = asyncio.sleep(step.seconds) if isinstance(step, Pause) else self._pool.use(self._perform, step)
                    result = await do
                except retries.problems as error:
                    problem = error
                if problem is None:
                    step = attempts.send(result)
                else:
                    step, problem = attempts.throw(problem), None
        except StopIteration as done:
            value: T = done.value
            return value
        except UnsupportedStatementError:
            self.blocking.invalidate()
            if statements is not None or (await self._read_shape(retry=retry)).shape == sql.shape:
                raise
        finally:
            problem = None  # it knows this frame
            attempts.close()
        # The tables were distributed while the process ran.
        return await self.run(operation, *arguments, reads_only=reads_only, retry=retry)

    async def _perform(self, driver: Any, step: Step) -> Any:
        calls = self.blocking.calls.of(driver, step)
        try:
            call = next(calls)
            while True:
                try:
                    rows = await driver.run(*call)
                except Exception as error:
                    call = calls.throw(error)
                else:
                    call = calls.send(rows)
        except StopIteration as done:
            return done.value
        finally:
            calls.close()

    async def _read_shape(self, *, retry: bool) -> Statements:
        return self.blocking.build(await self.run(read_shape, retry=retry, statements=self.blocking.default_statements))


async def _in_thread(executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Do work in a thread; where the caller is cancelled, it ends what it waits for, or ends by itself, first."""
    is_cancelled = Event()
    future: Future[T] = executor.submit(ended_by(is_cancelled.is_set).run, work)
    waiting = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        is_cancelled.set()
        if future.cancel():
            raise
        while not waiting.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({waiting})
        if not waiting.cancelled():
            waiting.exception()  # nobody else asks for it
        raise

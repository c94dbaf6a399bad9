"""One database, for an event loop: does the steps of operations as `store.database` does for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Any, TypeVar, TypeVarTuple

from lapse.errors import LapseError
from lapse.store.database import MAX_CONNECTIONS, Clock, Database
from lapse.store.driver_errors import UnsupportedStatementError, is_read_only
from lapse.store.engines import async_connector
from lapse.store.limits import ended_by
from lapse.store.operations import Query, Step, Steps, Transaction
from lapse.store.operations.schema import read_shape
from lapse.store.statements import Statements
from lapse.store.statements.conversations import clock as server_clock

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
        problem: Exception | None = None
        retries = self.blocking.retries
        try:
            steps = operation(sql, *arguments)
            step = next(steps)
            while True:
                do = partial(self._transact, step) if isinstance(step, Transaction) else partial(self._query, step)
                result = problem = None
                try:
                    result = await self._pool.use(do, is_read_only)
                except LapseError as error:
                    problem = error
                except retries.errors as error:
                    problem = error
                # Outside the handler: a driver's error, which may hold a row's values, must be nobody's context.
                if problem is not None and not isinstance(problem, LapseError):
                    attempt = partial(self._pool.use, do, is_read_only)
                    try:
                        result = await retries.attempt_async(attempt, retry=retry, problem=problem)
                        problem = None
                    except LapseError as error:
                        problem = error
                step = steps.send(result) if problem is None else steps.throw(problem)
        except StopIteration as done:
            value: T = done.value
            return value
        except UnsupportedStatementError:
            self.blocking.invalidate()
            if statements is not None or (await self._read_shape(retry=retry)).shape == sql.shape:
                raise
        finally:
            problem = None  # it knows this frame
        # The tables were distributed while the process ran.
        return await self.run(operation, *arguments, reads_only=reads_only, retry=retry)

    async def _transact(self, step: Transaction, driver: Any) -> Any:
        await driver.run(driver.begin_snapshot if step.is_snapshot else driver.begin, {})
        try:
            steps = step.work()
            result = None
            try:
                while True:
                    result = await self._query(steps.send(result), driver)
            except StopIteration as done:
                result = done.value
            await driver.run("COMMIT", {})
        except Exception:
            # The connection may be gone, or the database have rolled back already: the first error is the one to tell.
            await driver.roll_back()
            raise
        return result

    async def _query(self, step: Step, driver: Any) -> Any:
        if isinstance(step, Query):
            statement, values = step
        elif self.blocking.clock is not None:
            return self.blocking.now()
        else:
            return (await self._query(Query(self.blocking.default_statements(server_clock)), driver)).one().now
        return statement.rows(await driver.run(statement.sql, statement.bind(values, self.blocking.now)))

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

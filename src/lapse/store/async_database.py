"""One database, for an event loop: does the steps of operations as `store.database` does for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any, TypeVar, TypeVarTuple

from lapse.errors import SchemaError
from lapse.store.cancellation import outlast
from lapse.store.database import MAX_CONNECTIONS, Clock, Database
from lapse.store.driver_errors import UnsupportedStatementError
from lapse.store.engines import async_connector
from lapse.store.limits import ended_by
from lapse.store.migrate import ensure_schema, has_schema
from lapse.store.operations import Step, Steps
from lapse.store.operations.schema import check, read_shape
from lapse.store.retries import Pause
from lapse.store.statements import Statements
from lapse.store.table_mapping import Shape

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class AsyncDatabase:
    """Connections of one event loop to PostgreSQL; on SQLite, threads that do what `Database` does."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        """Prepare it; arguments and errors as `Database`."""
        self.blocking = Database(url, clock)
        """The same database for threads: what both know of it, and migrations."""
        self._threads = _Threads() if self.blocking.dialect == "sqlite" else None
        if self._threads is None:
            from lapse.store.drivers.asyncio import AsyncPool  # needs psycopg, which SQLite does without

            self._pool = AsyncPool(async_connector(self.blocking.engine.url), MAX_CONNECTIONS)

    async def close(self) -> None:
        """Close all connections."""
        if self._threads is None:
            await self._pool.close()
        else:
            threads, self._threads = self._threads, _Threads()
            await asyncio.to_thread(threads.shutdown)  # a call in hand may take a while to end
        self.blocking.close()

    async def shape(self) -> Shape:
        """Return the shape of the database, which is asked for it once; errors as `Database.shape`."""
        return (self.blocking.statements or await self._read_shape(retry=True)).shape

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
        if self._threads is not None:
            work = partial(self.blocking.run, operation, *arguments, reads_only=reads_only, retry=retry)
            return await _in_thread(self._threads.reading if reads_only else self._threads.writing, work)
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

    async def ensure_schema(self, *, retry: bool = True) -> None:
        """Create a missing schema in an embedded database, check it everywhere; errors as `migrate.ensure_schema`."""
        if self._threads is None:
            await self._check_schema(retry=retry)
        else:
            await _in_thread(self._threads.writing, partial(ensure_schema, self.blocking, retry=retry))

    async def has_schema(self, *, retry: bool = True) -> bool:
        """Check that the database has the right schema, as `migrate.has_schema`."""
        if self._threads is None:
            await self._check_schema(retry=retry)
            return True
        return await _in_thread(self._threads.reading, partial(has_schema, self.blocking, retry=retry))

    async def _check_schema(self, *, retry: bool) -> None:
        try:
            await self.run(check, self.blocking.safe_url, reads_only=True, retry=retry)
        except SchemaError:
            self.blocking.invalidate()
            raise

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


class _Threads:
    """Threads for calls on SQLite: of those that write, all but one wait, and must not be in the way of a reader."""

    def __init__(self) -> None:
        # None is started before its first call.
        self.writing = ThreadPoolExecutor(MAX_CONNECTIONS, "lapse-sqlite-writing")
        self.reading = ThreadPoolExecutor(MAX_CONNECTIONS, "lapse-sqlite-reading")

    def shutdown(self) -> None:
        self.writing.shutdown()
        self.reading.shutdown()


async def _in_thread(executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Do work in a thread; where the caller is cancelled, it ends what it waits for, or ends by itself, first."""
    is_cancelled = Event()
    future: Future[T] = executor.submit(ended_by(is_cancelled.is_set).run, work)
    waiting = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        is_cancelled.set()
        if not future.cancel():
            await outlast(waiting)
        raise

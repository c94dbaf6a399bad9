"""One database, for threads: does the steps of operations, with its connections, its clock and its retries."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lapse.addresses import shown
from lapse.errors import InvalidInputError
from lapse.lifecycle import require_utc
from lapse.store.connection import Connection, StatementCache
from lapse.store.driver_calls import DriverCalls
from lapse.store.driver_errors import UnsupportedStatementError
from lapse.store.engines import READS_ONLY, connector, make_engine
from lapse.store.operations import Query, Step, Steps, Transaction, answer_of_nothing
from lapse.store.operations.schema import read_shape
from lapse.store.pool import Pool
from lapse.store.retries import Pause, Retries, in_lapses_words
from lapse.store.statements import Row, Statements, statements_for
from lapse.store.table_mapping import Shape
from lapse.store.urls import parse_url, safe_url

Clock = Callable[[], datetime]
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_CONNECTIONS = 15
"""Sessions of a process at a server."""


class Database:
    """A pool of connections with lapse's ways: single statements in autocommit, BEGIN IMMEDIATE on SQLite, retries."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        """Prepare the pool; nothing is connected yet.

        Args:
            url: `sqlite:///file` or `postgresql://…`.
            clock: returns aware datetimes in place of the database's clock; for tests and replay.

        Raises:
            SettingsError: the URL is not usable.
            InvalidInputError: the clock is no function.
        """
        if clock is not None and not callable(clock):
            raise InvalidInputError(f"clock must be a function, not {shown(clock)}")
        parsed = parse_url(url)
        self.dialect = parsed.get_backend_name()
        self.safe_url = safe_url(parsed)
        self.clock = clock
        self.path = Path(parsed.database) if self.dialect == "sqlite" and parsed.database else None
        self.connect = connector(parsed)
        self.engine = make_engine(parsed, self.connect)
        self.retries = Retries((DBAPIError, self.engine.dialect.loaded_dbapi.Error))
        # SQLite has one writer at a time: two of one process would wait for each other in no order, asleep. What only
        # reads waits for no writer.
        is_sqlite = self.dialect == "sqlite"
        self._pool: Pool[Any] = Pool(self.connect, 1 if is_sqlite else MAX_CONNECTIONS)
        self._reading_pool = Pool(self.connect, MAX_CONNECTIONS) if is_sqlite else self._pool
        shape = Shape(dialect=self.dialect, has_server_clock=clock is None and not is_sqlite)
        self.default_statements = statements_for(shape)
        """Those of lapse's own tables, with whole numbers for owners."""
        self.statements: Statements | None = None
        """None: the database has not been asked yet for its shape, or has no tables."""
        self.calls = DriverCalls(self.default_statements, self.now, self.retries.errors)
        self._session_statements = StatementCache(self.engine.dialect)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._reading_pool.close()

    def now(self) -> datetime:
        """Return the present moment by the injected clock, or this machine's."""
        return require_utc(self.clock()) if self.clock else datetime.now(UTC)

    def shape(self, *, retry: bool = True) -> Shape:
        """Return the shape of the database, which is asked for it once.

        Raises:
            DatabaseError: the database refused, or cannot be reached.
        """
        return (self.statements or self._read_shape(retry=retry)).shape

    def invalidate(self) -> None:
        """Ask again before the next operation: the tables may have been made, adopted, reverted or distributed."""
        self.statements = None

    def build(self, shape: Shape | None) -> Statements:
        """Return the statements for this shape, from now on those of the database; None: there are no tables yet."""
        if shape is None:
            return self.default_statements
        self.statements = statements_for(shape)
        return self.statements

    # --- operations -------------------------------------------------------------------------------------------------

    def run(
        self,
        operation: Callable[[Statements, *Ts], Steps[T]],
        *arguments: *Ts,
        reads_only: bool = False,
        retry: bool = True,
        statements: Statements | None = None,
    ) -> T:
        """Do an operation's steps and return what it returns.

        Args:
            operation: called with the statements, and these arguments.
            arguments: what else it takes.
            reads_only: it writes nothing: then on SQLite it waits for no write of this process.
            retry: a step is done again where the database was away; False raises at once.
            statements: default is the database's own.

        Raises:
            DatabaseUnavailableError: transient failures went on.
            DatabaseError: the database refused.
            LapseError: what the operation raises.
        """
        sql = statements or self.statements or self._read_shape(retry=retry)
        pool = self._reading_pool if reads_only else self._pool
        result: Any = None
        problem: Exception | None = None
        attempts = self.retries.attempts(operation(sql, *arguments), retry=retry)
        try:
            step = next(attempts)
            while True:
                try:
                    result = _do_apart(step) if isinstance(step, (Pause, Work)) else pool.use(self._perform, step)
                except self.retries.problems as error:
                    problem = error
                if problem is None:
                    step = attempts.send(result)
                else:
                    step, problem = attempts.throw(problem), None
        except StopIteration as done:
            value: T = done.value
            return value
        except UnsupportedStatementError:
            if statements is not None or self._has_shape(sql.shape, retry=retry):
                raise
        finally:
            problem = None  # it knows this frame
            attempts.close()  # here, and not when it is collected: an interruption would be lost in that
        # The tables were distributed while the process ran.
        return self.run(operation, *arguments, reads_only=reads_only, retry=retry)

    def run_without_tables(self, operation: Callable[[Statements, *Ts], Steps[T]], *arguments: *Ts) -> T:
        """Return what an operation that only reads returns where there are no tables; nothing is asked."""
        return answer_of_nothing(operation(self.default_statements, *arguments), self.now())

    def run_on(self, driver: Any, operation: Callable[[Statements, *Ts], Steps[T]], *arguments: *Ts) -> T:
        """Do all of an operation in one transaction on this connection; the driver's errors come as they are."""

        def work() -> Steps[T]:
            sql = self.statements or self.build((yield from read_shape(self.default_statements)))
            return (yield from operation(sql, *arguments))

        result: T = self._perform(driver, Transaction(work, is_snapshot=True))
        return result

    def stream(self, build: Callable[[Any], Any]) -> Iterator[Row]:
        """Run a query on a connection of its own, and yield its rows; some are in memory at once.

        Raises:
            DatabaseError: the database refused, or cannot be reached.
        """
        statement = (self.statements or self._read_shape(retry=True))(build)
        problem: Exception | None = None
        driver = None
        try:
            driver = self.connect()
            driver.run(driver.begin_snapshot, {})
            for page in driver.pages(statement.sql, statement.bind({})):
                yield from statement.rows(page)
        except self.retries.errors as error:
            problem = error
        finally:
            if driver is not None:
                driver.discard()
        if problem is not None:
            raise in_lapses_words(problem)

    def _perform(self, driver: Any, step: Step) -> Any:
        # As `calls` does, without its ceremony: a message.
        if isinstance(step, Query) and driver.is_read_committed and not step.is_lazy:
            statement, values, _ = step
            return statement.rows(driver.run(statement.sql, statement.bind(values, self.now)))
        calls = self.calls.of(driver, step)
        try:
            call = next(calls)
            while True:
                try:
                    rows = driver.run(*call)
                except Exception as error:
                    call = calls.throw(error)
                else:
                    call = calls.send(rows)
        except StopIteration as done:
            return done.value
        finally:
            calls.close()

    def _read_shape(self, *, retry: bool) -> Statements:
        if self.path is not None and not self.path.exists():  # a look makes no file
            return self.default_statements
        return self.build(self.run(read_shape, reads_only=True, retry=retry, statements=self.default_statements))

    def _has_shape(self, shape: Shape, *, retry: bool) -> bool:
        self.invalidate()
        return self._read_shape(retry=retry).shape == shape

    # --- sessions, for what is no operation: adoption, migrations ---------------------------------------------------

    def transaction(self, work: Callable[[Connection], T], *, retry: bool = True) -> T:
        """Run `work` in one transaction that may write, and return what it returns; errors as `run`.

        Args:
            work: called again from the start after a transient failure, even one in COMMIT: it must be repeatable.
            retry: False raises at once.
        """
        return self.autocommit(lambda connection: connection.transaction(connection.driver.begin, work), retry=retry)

    def autocommit(self, work: Callable[[Connection], T], *, retry: bool = True) -> T:
        """Run `work`, each statement its own transaction (one round trip); otherwise as `transaction`."""

        def attempt(driver: Any) -> T:
            return work(Connection(driver, self._session_statements))

        return self._attempt(partial(self._pool.use, attempt), retry=retry)

    def schema_transaction(self, work: Callable[[sa.Connection], T], *, retry: bool = True) -> T:
        """Run `work` in one transaction on a connection of SQLAlchemy, as migrations need it; otherwise the same."""
        options = {"isolation_level": "READ COMMITTED"} if self.dialect == "postgresql" else {}
        return self._with_sqlalchemy(options, work, retry=retry)

    def inspect(self, work: Callable[[sa.Connection], T], *, retry: bool = True) -> T:
        """Run `work`, which only reads, on a connection of SQLAlchemy; otherwise as `transaction`."""
        return self._with_sqlalchemy({READS_ONLY: True}, work, retry=retry)

    def _with_sqlalchemy(self, options: dict[str, Any], work: Callable[[sa.Connection], T], *, retry: bool) -> T:
        engine = self.engine.execution_options(**options)

        def attempt() -> T:
            with engine.begin() as connection:
                return work(connection)

        return self._attempt(attempt, retry=retry)

    def _attempt(self, work: Callable[[], T], *, retry: bool) -> T:
        result: T = Database.run(self, _apart, work, retry=retry, statements=self.default_statements)
        return result


class Work(NamedTuple):
    """A step of what is no operation: done by itself, with a connection of its own."""

    do: Callable[[], Any]


def _apart(_sql: Statements, work: Callable[[], T]) -> Generator[Any, T, T]:
    return (yield Work(work))


def _do_apart(step: Pause | Work) -> Any:
    if isinstance(step, Work):
        try:
            return step.do()
        except StopIteration as error:  # as from a generator: it is not the end of the attempts
            raise RuntimeError("work raised StopIteration") from error
    time.sleep(step.seconds)
    return None

"""One database: its connections, its clock, its transactions, its retries, and its errors in lapse's words."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy.exc import DBAPIError

from lapse.addresses import shown
from lapse.errors import CallTimeoutError, DatabaseUnavailableError, InvalidInputError
from lapse.lifecycle import require_utc
from lapse.store import citus, limits, statements
from lapse.store.connection import Connection, Statements
from lapse.store.driver_errors import SqliteBusyError, is_read_only, translate
from lapse.store.drivers.sqlite import BUSY_LOOK_SECONDS
from lapse.store.engines import READS_ONLY, connector, make_engine
from lapse.store.layout import OWN, Layout, read_layout, use_layout
from lapse.store.pool import Pool, PoolTimeoutError
from lapse.store.urls import parse_url, safe_url

Clock = Callable[[], datetime]
T = TypeVar("T")

MAX_CONNECTIONS = 15
"""Sessions of a process at a server."""
BUSY_TIMEOUT_SECONDS = 10
"""How long a write waits for another one on SQLite, where the call has no limit of its own."""
RETRY_TIMEOUT_SECONDS = 10
"""No attempt begins later than this after the first one failed; a call with a limit of its own goes by that."""
# At once, since a connection that was cut says nothing about the next one; then with jitter, so that all callers of a
# lost server do not come back at once.
_RETRIES = tenacity.Retrying(
    retry=tenacity.retry_if_exception(
        lambda error: isinstance(error, DatabaseUnavailableError) and not isinstance(error, CallTimeoutError)
    ),
    wait=tenacity.wait_exponential_jitter(multiplier=0.1, max=2, jitter=1),
    reraise=True,
)


class Database:
    """A pool of connections with lapse's ways: autocommit for single statements, BEGIN IMMEDIATE on SQLite, retries."""

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
        connect = self._connect = connector(parsed)
        self.engine = make_engine(parsed, connect)
        self._driver_error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        # SQLite has one writer at a time: two of one process would wait for each other in no order, asleep. What only
        # reads waits for no writer.
        is_sqlite = self.dialect == "sqlite"
        self._pool: Pool[Any] = Pool(connect, 1 if is_sqlite else MAX_CONNECTIONS)
        self._reading_pool = Pool(connect, MAX_CONNECTIONS) if is_sqlite else self._pool
        self._url = parsed
        self._statements = Statements(self.engine.dialect)
        self._layout = OWN if self.dialect == "sqlite" else None
        self._is_distributed: bool | None = None

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
        self._reading_pool.close()

    @property
    def now_expression(self) -> statements.Now:
        """Return the `now` that statements are built with: the server's clock where there is one."""
        if self.clock is None and self.dialect == "postgresql":
            return statements.server_now()
        return statements.BOUND_NOW

    @property
    def now_parameters(self) -> dict[str, datetime]:
        """Return what `now_expression` needs to be executed."""
        if self.clock is None and self.dialect == "postgresql":
            return {}
        return {"now": require_utc(self.clock()) if self.clock else datetime.now(UTC)}

    def read_clock(self, connection: Connection) -> datetime:
        """Return the present moment by the clock that rules in this database."""
        if self.clock is not None:
            return require_utc(self.clock())
        if self.dialect == "postgresql":
            moment: datetime = connection.execute(statements.SERVER_CLOCK).one()[0]
            return moment
        return datetime.now(UTC)

    def is_distributed(self, *, look_again: bool = False, retry: bool = True) -> bool:
        """Tell whether Citus keeps the conversations on several shards.

        Asked of the database once; `look_again` asks again, for they may have been distributed since.

        Raises:
            DatabaseError: the database refused, or cannot be reached.
        """
        if self.dialect != "postgresql":
            return False
        if self._is_distributed is None or look_again:
            self._is_distributed = self.autocommit(citus.is_distributed, retry=retry)
        return self._is_distributed

    def layout(self) -> Layout:
        """Return how this database keeps lapse's tables; asked of it once.

        Raises:
            DatabaseError: the database refused, or cannot be reached.
        """
        if self._layout is None:
            self.autocommit(lambda connection: None)
        return self._layout or OWN

    def forget_layout(self) -> None:
        """Ask again before the next statement: the tables may have been adopted, or given back."""
        if self.dialect != "sqlite":
            self._layout = None

    def transaction(self, work: Callable[[Connection], T], *, retry: bool = True) -> T:
        """Run `work` in one transaction that may write, and return what it returns.

        Args:
            work: called again from the start after a transient failure, even one in COMMIT: it must be repeatable.
            retry: False raises at once.

        Raises:
            DatabaseUnavailableError: transient failures went on.
            DatabaseError: the database refused.
        """

        def attempt(driver: Any) -> T:
            return self._connection(driver).transaction(driver.begin, work)

        return self._run(lambda: self._pool.use(attempt, is_read_only), retry=retry)

    def autocommit(self, work: Callable[[Connection], T], *, reads_only: bool = False, retry: bool = True) -> T:
        """Run `work`, each statement its own transaction (one round trip); otherwise as `transaction`.

        Args:
            work: as there.
            reads_only: it writes nothing: then on SQLite it waits for no write of this process.
            retry: as there.
        """

        def attempt(driver: Any) -> T:
            return work(self._connection(driver))

        pool = self._reading_pool if reads_only else self._pool
        return self._run(lambda: pool.use(attempt, is_read_only), retry=retry)

    def schema_transaction(self, work: Callable[[sa.Connection], T], *, retry: bool = True) -> T:
        """Run `work` in one transaction on a connection of SQLAlchemy, as migrations need it; otherwise the same."""
        options = {"isolation_level": "READ COMMITTED"} if self.dialect == "postgresql" else {}
        return self._with_sqlalchemy(options, work, retry=retry)

    def inspect(self, work: Callable[[sa.Connection], T], *, retry: bool = True) -> T:
        """Run `work`, which only reads, on a connection of SQLAlchemy; otherwise as `transaction`."""
        return self._with_sqlalchemy({READS_ONLY: True}, work, retry=retry)

    # --- inside -------------------------------------------------------------------------------------------------

    def _connection(self, driver: Any) -> Connection:
        if self._layout is None:
            self._look_at_layout(driver)
        return Connection(driver, self._statements)

    def _look_at_layout(self, driver: Any) -> None:
        found = read_layout(driver)
        dialect = self.engine.dialect
        if found not in (None, OWN):
            # One of its own: what a dialect has compiled it keeps for good.
            dialect = use_layout(make_engine(self._url, self._connect).dialect, found)
        self._statements = Statements(dialect)
        self._layout = found  # None, where there is no table yet: looked for again next time

    def _with_sqlalchemy(self, options: dict[str, Any], work: Callable[[sa.Connection], T], *, retry: bool) -> T:
        engine = self.engine.execution_options(**options)

        def attempt() -> T:
            with engine.begin() as connection:
                return work(connection)

        return self._run(attempt, retry=retry)

    def _run(self, attempt: Callable[[], T], *, retry: bool) -> T:
        try:
            return self._patient(attempt)
        except CallTimeoutError:
            raise
        except DatabaseUnavailableError as error:
            if not retry:
                raise
            reason = str(error)
        remaining = limits.current().remaining
        seconds = RETRY_TIMEOUT_SECONDS if remaining is None else remaining
        # A copy: the state of tenacity's object is one thread's.
        try:
            result: T = _RETRIES.copy(stop=tenacity.stop_before_delay(seconds))(self._patient, attempt)
        except CallTimeoutError as error:
            # Time was up for a last attempt; why there had to be one is what helps.
            raise CallTimeoutError(f"{error}; at first, {reason}") from None
        return result

    def _patient(self, attempt: Callable[[], T]) -> T:
        """Translate errors, and wait for SQLite's write lock in small pieces that a stop can come between."""
        give_up_at: float | None = None
        while True:
            try:
                return attempt()
            except PoolTimeoutError as error:
                raise _overdue(str(error)) from None
            except (DBAPIError, self._driver_error) as error:
                translated = translate(error)
            if isinstance(translated, CallTimeoutError):
                raise _overdue(str(translated))
            if not isinstance(translated, SqliteBusyError):
                raise translated
            limit, now = limits.current(), time.monotonic()
            if give_up_at is None:
                # Each look takes a while itself.
                give_up_at = (limit.deadline or now + BUSY_TIMEOUT_SECONDS) - BUSY_LOOK_SECONDS
            if limit.is_stopping() or now >= give_up_at:
                raise translated if limit.seconds is None else _overdue("another process keeps the file locked")


def _overdue(reason: str) -> DatabaseUnavailableError:
    """Return the error that says for what the call's time was used up."""
    seconds = limits.current().seconds
    if seconds is None:
        return DatabaseUnavailableError(f"the database is not available: {reason}")
    return CallTimeoutError(f"not done in time (LAPSE_CALL_TIMEOUT, {seconds:g} seconds): {reason}")

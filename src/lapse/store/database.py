"""One database: its engine, its clock, its transactions, and its errors in lapse's words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import stamina
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from lapse.errors import DatabaseError, DatabaseUnavailableError, SchemaMissingError, SettingsError
from lapse.lifecycle import require_utc
from lapse.store import statements
from lapse.store.types import PLUS_SECONDS_FUNCTION
from lapse.store.urls import parse_url, safe_url

Clock = Callable[[], datetime]
T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 5
TCP_USER_TIMEOUT_MS = 15_000
"""A database host that vanished without a word is given up after this time, not after the kernel's 15 minutes."""
BUSY_TIMEOUT_SECONDS = 10
"""How long a write waits for another one on SQLite."""
_BUSY_LOOK_SECONDS = 0.2
"""How long of it at a time: nothing can interrupt SQLite's own wait."""
RETRY_ATTEMPTS = 6
RETRY_TIMEOUT_SECONDS = 10
_MIN_SQLITE = (3, 35, 0)  # the first with RETURNING

# Connection lost, out of resources, shutting down, serialization failure, deadlock: the next try may succeed.
_TRANSIENT_SQLSTATES = ("08", "40", "53", "57P", "55P03", "25006")
_BUSY_SQLITE = ("SQLITE_BUSY", "SQLITE_LOCKED")
_TRANSIENT_SQLITE = ("SQLITE_FULL", "SQLITE_IOERR")
_UNDEFINED_TABLE = "42P01"


class _SqliteBusyError(DatabaseUnavailableError):
    """Another write went on."""


class Database:
    """An engine with lapse's ways: autocommit for single statements, BEGIN IMMEDIATE on SQLite, UTC, retries."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        """Prepare the engine; nothing is connected yet.

        Args:
            url: `sqlite:///file` or `postgresql://…`.
            clock: returns aware datetimes in place of the database's clock; for tests and replay.

        Raises:
            SettingsError: the URL is not usable.
        """
        parsed = parse_url(url)
        self.dialect = parsed.get_backend_name()
        self.safe_url = safe_url(parsed)
        self.clock = clock
        self.is_stopping: Callable[[], bool] = lambda: False
        """Ends the wait for SQLite's write lock; a worker puts its stop flag here."""
        self.path = Path(parsed.database) if self.dialect == "sqlite" and parsed.database else None
        self.engine = _postgresql_engine(parsed) if self.dialect == "postgresql" else _sqlite_engine(parsed)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

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

    def read_clock(self, connection: sa.Connection) -> datetime:
        """Return the present moment by the clock that rules in this database."""
        if self.clock is not None:
            return require_utc(self.clock())
        if self.dialect == "postgresql":
            return connection.execute(statements.SERVER_CLOCK).scalar_one()
        return datetime.now(UTC)

    def transaction(self, work: Callable[[sa.Connection], T], *, retry: bool = True) -> T:
        """Run `work` in one transaction that may write, and return what it returns.

        Args:
            work: called again from the start after a transient failure, even one in COMMIT: it must be repeatable.
            retry: False raises at once.

        Raises:
            DatabaseUnavailableError: transient failures went on.
            DatabaseError: the database refused.
        """
        return self._run(lambda: _begin(self.engine), work, retry=retry)

    def autocommit(self, work: Callable[[sa.Connection], T], *, retry: bool = True) -> T:
        """Run `work`, each statement its own transaction (one round trip); otherwise as `transaction`."""
        return self._run(self._autocommit.connect, work, retry=retry)

    def _run(
        self,
        connect: Callable[[], AbstractContextManager[sa.Connection]],
        work: Callable[[sa.Connection], T],
        *,
        retry: bool,
    ) -> T:
        def attempt() -> T:
            give_up_at = time.monotonic() + BUSY_TIMEOUT_SECONDS
            while True:
                try:
                    with _translated_errors(), connect() as connection:
                        return work(connection)
                except _SqliteBusyError:
                    if time.monotonic() >= give_up_at or self.is_stopping():
                        raise

        try:
            return attempt()
        except DatabaseUnavailableError:
            if not retry:
                raise
        for again in stamina.retry_context(
            on=DatabaseUnavailableError,
            attempts=RETRY_ATTEMPTS,
            timeout=RETRY_TIMEOUT_SECONDS,
            wait_max=2,
        ):
            with again:
                return attempt()
        raise AssertionError("unreachable: the last attempt returns or raises")


@contextmanager
def _begin(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.begin() as connection:
        yield connection


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    # No startup `options`, no prepared statements, no session state: transaction poolers hand a session around.
    arguments: dict[str, Any] = {"prepare_threshold": None}
    defaults = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
        "application_name": "lapse",
    }
    arguments |= {name: value for name, value in defaults.items() if name not in url.query}
    return sa.create_engine(
        url,
        connect_args=arguments,
        isolation_level="READ COMMITTED",
        hide_parameters=True,
        pool_use_lifo=True,
        use_native_hstore=False,  # no such column, so no look for the type on the first connection
    )


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        needed = ".".join(map(str, _MIN_SQLITE))
        raise SettingsError(f"SQLite {sqlite3.sqlite_version} is too old: lapse needs {needed}")
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_LOOK_SECONDS}, hide_parameters=True)
    sa.event.listen(engine, "connect", _prepare_sqlite_connection)
    sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def _prepare_sqlite_connection(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction handling begins too late and lets two writers lose each other's update.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.create_function(PLUS_SECONDS_FUNCTION, 2, _plus_seconds, deterministic=True)


def _begin_immediate(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _plus_seconds(moment: str | None, seconds: float) -> str | None:
    if moment is None:
        return None
    parsed = datetime.fromisoformat(moment)
    naive = parsed.astimezone(UTC).replace(tzinfo=None) if parsed.tzinfo else parsed
    return (naive + timedelta(seconds=seconds)).isoformat(sep=" ", timespec="microseconds")


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn driver errors into lapse's. Their details hold row values, so only the primary message is kept."""
    try:
        yield
    except DBAPIError as error:
        raise _translate(error) from None
    except PoolTimeoutError:
        raise DatabaseUnavailableError("no database connection became free in time") from None


def _translate(error: DBAPIError) -> DatabaseError | SchemaMissingError:
    origin = error.orig
    sqlstate = getattr(origin, "sqlstate", None) or ""
    diagnostics = getattr(origin, "diag", None)
    reason = getattr(diagnostics, "message_primary", None) or str(origin).strip().partition("\n")[0]
    if sqlstate == _UNDEFINED_TABLE or reason.startswith("no such table"):
        return SchemaMissingError()
    if isinstance(origin, sqlite3.Error):
        name = getattr(origin, "sqlite_errorname", "") or ""
        if name.startswith("SQLITE_CANTOPEN"):
            reason = "the SQLite file cannot be opened: does its folder exist, and may you write there?"
        if name.startswith(_BUSY_SQLITE):
            return _SqliteBusyError(f"the database is not available: {reason}")
        transient = name.startswith(_TRANSIENT_SQLITE)
    else:
        # Without an SQLSTATE it was the connection that failed, not a statement.
        transient = error.connection_invalidated or (
            sqlstate.startswith(_TRANSIENT_SQLSTATES) if sqlstate else isinstance(error, OperationalError)
        )
    if transient:
        return DatabaseUnavailableError(f"the database is not available: {reason}")
    return DatabaseError(f"the database refused: {reason}")

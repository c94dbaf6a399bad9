"""Connections of psycopg to PostgreSQL whose results do not depend on the settings of role and server."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any, ClassVar, Self, TypeVar

import psycopg
from psycopg.abc import Buffer, PQGen, PQGenConn
from psycopg.adapt import Loader, Transformer
from psycopg.errors import OperationalError, QueryCanceled, ReadOnlySqlTransaction
from psycopg.pq import Format, TransactionStatus
from psycopg.types.json import set_json_dumps

from lapse.models import MIN_DATETIME, NEVER
from lapse.store import limits
from lapse.store.drivers import ROWS_OF_A_PAGE

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 5
MIN_CONNECT_SECONDS = 2
"""libpq's: it takes a shorter time for this one."""
TCP_USER_TIMEOUT_MS = 15_000
"""A host that vanished with data unacknowledged is given up after this time; the kernel's default is 15 minutes."""
KEEPALIVE_SECONDS = 5
"""Detects a host that vanished while an answer was awaited; the kernel's default is two hours."""
CANCEL_SECONDS = 1.0
"""The part of a call's time that is kept for cancelling a statement."""
MIN_CANCEL_SECONDS = 0.1
ISOLATION = "SELECT current_setting('default_transaction_isolation')"
READ_COMMITTED = ("read committed",)
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""Explicit, since the server's default may differ, and statements are written for this isolation level."""
BEGIN_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

_OTHER_TYPES = 0
"""The number under which psycopg keeps the loader of unknown types."""
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
    "keepalives_idle": KEEPALIVE_SECONDS,
    "keepalives_interval": KEEPALIVE_SECONDS,
    "application_name": "lapse",
}
# Whatever the URL, the role or the database says: in another one not every address can be written.
_ALWAYS = {"client_encoding": "utf8"}
_unpack_bigint = Struct(">q").unpack
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_FIRST_MOMENT, _LAST_MOMENT = ((moment - _EPOCH) // timedelta(microseconds=1) for moment in (MIN_DATETIME, NEVER))


class ExpiredError(Exception):
    """The moment until which something was waited for has come."""


class OverdueError(OperationalError):
    """The call's time limit passed while it waited for the server."""


class InfinityLoader(Loader):
    """Reads `timestamptz` as UTC. `infinity`, and what is past Python's calendar, is `NEVER`, or the calendar's start.

    In the binary form a moment is a number: neither DateStyle nor TimeZone changes it.
    """

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        """Return the moment."""
        (microseconds,) = _unpack_bigint(data)
        if _FIRST_MOMENT <= microseconds <= _LAST_MOMENT:
            return _EPOCH + timedelta(0, 0, microseconds)
        return NEVER if microseconds > 0 else MIN_DATETIME


class NamedTypeLoader(Loader):
    """Reads types that only this database knows, such as an enum or `citext`: their binary form is text, too."""

    format = Format.BINARY

    def load(self, data: Buffer) -> str:
        """Return the text."""
        return bytes(data).decode()


class LazyCells:
    """The rows of a result as the server sent them, each read when it is asked for."""

    def __init__(self, connection: psycopg.BaseConnection[Any], result: Any) -> None:
        """Take a result, of a session whose adapters read it."""
        self._result = result
        self._transformer = Transformer(connection)
        self._transformer.set_pgresult(result)

    def __len__(self) -> int:
        """Return their number."""
        return int(self._result.ntuples)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Return all rows, one by one."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, place: int) -> tuple[Any, ...]:
        """Return the values of one row."""
        row: tuple[Any, ...] = self._transformer.load_row(place, tuple)
        return row

    def numbers(self) -> list[int]:
        """Return the first column, which holds small whole numbers."""
        value_of = self._result.get_value
        return [int.from_bytes(value_of(place, 0), "big") for place in range(self._result.ntuples)]


class Session(psycopg.BaseConnection[tuple[Any, ...]]):
    """The state of one session, in autocommit mode; its waits end at the call's time limit."""

    begin: ClassVar[str] = BEGIN
    begin_snapshot: ClassVar[str] = BEGIN_SNAPSHOT
    is_overdue = False
    """The time of the call was up while the server worked or waited for somebody else's lock."""
    is_read_committed = True
    """So single statements are, too; where not, each needs a transaction of its own, for which lapse's are written."""

    def is_idle(self) -> bool:
        """Tell whether it is connected, in no transaction, and in no statement."""
        return self.pgconn.transaction_status == TransactionStatus.IDLE

    def is_in_transaction(self) -> bool:
        """Tell whether it answers, and is in a transaction that an error may have left."""
        return self.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def is_lost(self, error: Exception) -> bool:
        """Tell whether after this error the server has gone away, or only reads: the next one may write."""
        return self.closed or self.is_overdue or isinstance(error, ReadOnlySqlTransaction)

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        """Connect as psycopg does, but no longer than the call may take, however many addresses a name has."""
        return connect_in_time(super()._connect_gen(conninfo))

    def __del__(self, *_: object) -> None:
        """Go without psycopg's warning: who interrupts a call may let a connection be lost, which closes it."""


class PostgresqlConnection(Session, psycopg.Connection[tuple[Any, ...]]):
    """One session, in autocommit mode; its waits end when the time of the call is up."""

    def run(self, sql: str, values: Mapping[str, Any], is_lazy: bool = False) -> Any:
        """Run a statement and return its rows; lazily, as `LazyCells`.

        Raises:
            OverdueError: the time of the call was up.
            psycopg.Error: anything else.
        """
        cursor = self.execute(sql, values, binary=True)
        if is_lazy:
            return LazyCells(self, cursor.pgresult)
        # Not the cursor's `description`, which describes each column anew: as long as the rest of a message.
        return cursor.fetchall() if cursor.pgresult is not None and cursor.pgresult.nfields else []

    def pages(self, sql: str, values: Mapping[str, Any]) -> Iterator[list[tuple[Any, ...]]]:
        """Run a query inside a transaction and yield its rows, some at a time: the driver would fetch all at once."""
        with closing(self.cursor("lapse_pages", binary=True)) as cursor:
            cursor.execute(sql, values)
            while rows := cursor.fetchmany(ROWS_OF_A_PAGE):
                yield rows

    def discard(self) -> None:
        """Close it; a statement that still runs, or waits for a lock, is cancelled first."""
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE and not self.is_overdue:
            self._cancel(CANCEL_SECONDS)
        self.close()

    def _cancel(self, seconds: float) -> None:
        with suppress(psycopg.Error):
            self.cancel_safe(timeout=seconds)

    def wait(self, gen: PQGen[Any], *arguments: Any, **options: Any) -> Any:
        """Wait for the server as psycopg does, but no longer than the call may take."""
        deadline = limits.current().deadline
        if deadline is None:
            return super().wait(gen, *arguments, **options)
        self.is_overdue = False
        try:
            return super().wait(until(deadline - CANCEL_SECONDS, gen), *arguments, **options)
        except ExpiredError:
            self.is_overdue = True
        self._cancel(max(deadline - time.monotonic(), MIN_CANCEL_SECONDS))
        with last_answer(self):
            return super().wait(until(deadline, gen), *arguments, **options)


def connect(arguments: Mapping[str, Any], json_text: Callable[[Any], str]) -> PostgresqlConnection:
    """Connect, within the time that the call has left.

    Args:
        arguments: libpq's parameters, which go before lapse's own, but for the encoding.
        json_text: writes JSON.

    Raises:
        OverdueError: the time of the call was up.
        psycopg.Error: it cannot be done.
    """
    # No startup `options`, no prepared statements, no session state: transaction poolers hand a session around.
    connection = PostgresqlConnection.connect(autocommit=True, prepare_threshold=None, **parameters(arguments))
    try:
        adapt(connection, json_text)
        connection.is_read_committed = connection.execute(ISOLATION).fetchone() == READ_COMMITTED
    except BaseException:
        connection.discard()
        raise
    return connection


# --- what both drivers have in common ---------------------------------------------------------------------------------


def parameters(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return libpq's parameters for a connection within the time that the call has left."""
    merged = {**_DEFAULTS, **arguments, **_ALWAYS}
    remaining = limits.current().remaining
    if remaining is not None:
        hosts = str(merged.get("host", "")).count(",") + 1
        given = float(merged["connect_timeout"])
        merged["connect_timeout"] = int(
            max(min(given if given > 0 else remaining, remaining / hosts), MIN_CONNECT_SECONDS)
        )
    return merged


def adapt(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], json_text: Callable[[Any], str]) -> None:
    """Read and write values as lapse needs them."""
    set_json_dumps(json_text, connection)
    connection.adapters.register_loader("timestamptz", InfinityLoader)
    connection.adapters.register_loader(_OTHER_TYPES, NamedTypeLoader)


def until(deadline: float, gen: PQGen[T]) -> Generator[Any, Any, T]:
    """Drive psycopg's generator until a moment of `time.monotonic()`; it may be driven on afterwards.

    Raises:
        ExpiredError: the moment has come, and the server has not answered.
    """
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if time.monotonic() >= deadline:
                raise ExpiredError
            wanted = gen.send(ready)
    except StopIteration as done:
        result: T = done.value
        return result


def connect_in_time(gen: PQGenConn[T]) -> PQGenConn[T]:
    """Drive psycopg's generator of a connection no longer than the call may take.

    Raises:
        OverdueError: the time was up.
    """
    deadline = limits.current().deadline
    if deadline is None:
        return (yield from gen)
    try:
        return (yield from until(deadline, gen))  # type: ignore[arg-type]  # of a connection, and driven alike
    except ExpiredError:
        raise OverdueError("no connection could be made") from None


@contextmanager
def last_answer(connection: Any) -> Iterator[None]:
    """Wait for the answer to a statement that was cancelled at the call's time limit, and raise what became of it.

    Raises:
        OverdueError: always, but where the connection is lost.
    """
    try:
        yield
    except ExpiredError:
        raise OverdueError("the server is silent") from None
    except QueryCanceled as error:
        # PostgreSQL names the row that a transaction waited for; behind others that wait for it, it does not.
        row_is_named = bool(error.diag.context)
        reason = "another transaction keeps the row locked" if row_is_named else "a statement took too long"
    else:
        # A commit that waits for a standby ends well when it is cancelled, and is not where it should be.
        reason = "it was cancelled while it was done, or while a standby had not confirmed it"
    connection.is_overdue = False  # it answers
    raise OverdueError(reason)

"""Read-only access to a SQLite file: it is neither created nor changed, and blocks nobody."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from lapse.errors import SchemaMissingError
from lapse.store.database import Database
from lapse.store.driver_errors import translate
from lapse.store.drivers.sqlite import SqliteConnection
from lapse.store.operations import Steps
from lapse.store.statements import Statements
from lapse.store.types import from_utc_text

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

IS_READABLE_FUNCTION = "lapse_is_readable"
"""SQL function of these connections: whether lapse can read a text as a time."""

_WAIT_SECONDS = 1.0
"""For a commit of a file that has no write-ahead log: there readers and a commit keep each other out."""


def run_read_only(database: Database, operation: Callable[[Statements, *Ts], Steps[T]], *arguments: *Ts) -> T:
    """Do an operation's steps on the file as it is, which can only be read; return what it returns.

    Raises:
        SchemaMissingError: there is no such file.
        DatabaseError: the database refused, or another program keeps readers out.
    """
    with opened(database) as driver:
        try:
            return database.run_on(driver, operation, *arguments)
        except sqlite3.Error as error:
            raise translate(error) from None


@contextmanager
def opened(database: Database) -> Iterator[sqlite3.Connection]:
    """Hand out a connection that can only read, in autocommit mode.

    Raises:
        SchemaMissingError: there is no such file.
        DatabaseError: it cannot be opened.
    """
    path = database.path
    if path is None or not path.exists():
        raise SchemaMissingError(f"there is no database {database.safe_url} yet: run `lapse migrate`")
    try:
        driver = _open(path)
    except sqlite3.Error as error:
        raise translate(error) from None
    try:
        yield driver
    finally:
        driver.close()


def _open(path: Path) -> sqlite3.Connection:
    folder = path.resolve().parent
    has_log = path.with_name(f"{path.name}-wal").exists()
    if not has_log and not (os.access(path, os.W_OK) and os.access(folder, os.W_OK)):
        # Nobody's log has to be read, and none can be made here.
        return _connected(path, "mode=ro&immutable=1")
    # Not `mode=ro`: it leaves behind the two files that a write-ahead log needs, perhaps as another user's.
    return _connected(path, "mode=rw")


def _connected(path: Path, how: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?{how}"
    driver = sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None, factory=SqliteConnection)
    driver.execute("PRAGMA query_only = ON")
    driver.create_function(IS_READABLE_FUNCTION, 1, _is_readable, deterministic=True)
    # What PostgreSQL brings for a histogram.
    driver.create_function("date_part", 2, _date_part, deterministic=True)
    driver.create_function("width_bucket", 4, _width_bucket, deterministic=True)
    driver.create_function("least", 2, min, deterministic=True)
    return driver


def _is_readable(text: str | None) -> bool:
    try:
        from_utc_text(text)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _date_part(part: str, text: str) -> float | None:
    assert part == "epoch"  # noqa: S101 - the only one that a statement asks for
    moment = from_utc_text(text)
    return None if moment is None else moment.astimezone(UTC).timestamp()


def _width_bucket(value: float, begin: float, end: float, count: int) -> int:
    if value < begin:
        return 0
    return count + 1 if value >= end else int((value - begin) / (end - begin) * count) + 1

"""Bounded looks at a database: none takes long, holds a lock afterwards, or spoils the transaction of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from psycopg import Connection, Error
from psycopg.rows import dict_row

T = TypeVar("T")

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
"""No snapshot is kept from one look to the next, so vacuum is not held back meanwhile."""
STATEMENT_TIMEOUT = "5s"
LOCK_TIMEOUT = "1s"
"""Who waits for a lock makes others wait behind it."""
OUTPUT: Mapping[str, str] = {
    "client_encoding": "UTF8",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "row_security": "on",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
"""By which what the catalog says, and what SQL means, is the same whatever the role, database or server has set."""
_SET = "SELECT " + ", ".join("set_config(%s, %s, %s)" for _ in OUTPUT)


def set_output(connection: Connection[Any], *, is_local: bool) -> None:
    """Let the server print and read everything in one form: for this transaction, or for the whole session."""
    connection.execute(_SET, [value for name in OUTPUT for value in (name, OUTPUT[name], is_local)])


def set_limits(connection: Connection[Any]) -> None:
    """Bound every statement of this transaction, and let all be printed in one form."""
    set_output(connection, is_local=True)
    # Names of settings cannot be parameters; a pooler's session keeps nothing of SET LOCAL.
    connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'".encode())
    connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'".encode())


def look(connection: Connection[Any], work: Callable[[], T]) -> T | Error:
    """Return what `work` finds, or the error with which the database refused.

    Raises:
        Error: the connection is lost.
    """
    connection.execute("SAVEPOINT look")
    found: T | Error
    try:
        found = work()
    except Error as error:
        if connection.closed:
            raise
        found = error
    # Back in either case: this lets go of the locks, too.
    connection.execute("ROLLBACK TO SAVEPOINT look; RELEASE SAVEPOINT look")
    return found


def rows(connection: Connection[Any], query: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return all rows of a query, each by the names of its columns."""
    with connection.cursor(row_factory=dict_row) as cursor:
        # Without parameters a per cent sign is one.
        return cursor.execute(query.encode(), parameters or None).fetchall()

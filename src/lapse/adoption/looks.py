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


def set_limits(connection: Connection[Any]) -> None:
    """Bound every statement of this transaction."""
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

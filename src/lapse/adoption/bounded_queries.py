"""Queries with a time limit: none holds a lock afterwards, and a failure does not abort the transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from psycopg import Connection, Error
from psycopg.rows import dict_row

T = TypeVar("T")

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
"""No snapshot is kept between queries, so vacuum is not held back meanwhile."""
STATEMENT_TIMEOUT = "5s"
LOCK_TIMEOUT = "1s"
"""A session that waits for a lock makes others queue behind it."""
SESSION_SETTINGS: Mapping[str, str] = {
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
"""With these the catalog's output and the meaning of SQL do not depend on the role, the database or the server."""
_SET = "SELECT " + ", ".join("set_config(%s, %s, %s)" for _ in SESSION_SETTINGS)


def apply_session_settings(connection: Connection[Any], *, is_local: bool) -> None:
    """Set `SESSION_SETTINGS`.

    Args:
        connection: of the session.
        is_local: for the current transaction only; otherwise for the whole session.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    parameters = [value for name in SESSION_SETTINGS for value in (name, SESSION_SETTINGS[name], is_local)]
    connection.execute(_SET, parameters)


def set_limits(connection: Connection[Any]) -> None:
    """Set `SESSION_SETTINGS` and both timeouts for the current transaction.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    apply_session_settings(connection, is_local=True)
    # Names of settings cannot be parameters; a pooler's session keeps nothing of SET LOCAL.
    connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'".encode())
    connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'".encode())


def in_savepoint(connection: Connection[Any], work: Callable[[], T]) -> T | Error:
    """Run `work` in a savepoint that is rolled back; return its result, or the error with which the database refused.

    Raises:
        psycopg.Error: the connection is lost.
    """
    connection.execute("SAVEPOINT bounded_query")
    result: T | Error
    try:
        result = work()
    except Error as error:
        if connection.closed:
            raise
        result = error
    # In either case: rolling back releases the locks, too.
    connection.execute("ROLLBACK TO SAVEPOINT bounded_query; RELEASE SAVEPOINT bounded_query")
    return result


def fetch_rows(
    connection: Connection[Any], query: str, parameters: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return all rows of a query, each as a mapping of column names to values.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        # Without parameters, % is not a placeholder.
        return cursor.execute(query.encode(), parameters or None).fetchall()

"""Results that are handed over page by page: memory does not grow with their number of rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from lapse.store.connection import Connection, Row
from lapse.store.database import Database

PAGE = 1_000
"""Rows in memory at once."""
_CURSOR = "lapse_stream"


def stream(database: Database, statement: Any, on_row: Callable[[Row], object]) -> None:
    """Run a statement without parameters, and call `on_row` with each of its rows, in their order.

    Raises:
        DatabaseError: the database refused, or cannot be reached; some rows may have been handed over by then.
    """

    def work(connection: Connection) -> None:
        compiled = connection._statements.compiled(statement)
        # PostgreSQL's driver would fetch all rows at once; of a server's cursor, which has a name, it fetches some.
        named = {"name": _CURSOR} if database.dialect == "postgresql" else {}
        with closing(connection.driver.cursor(**named)) as cursor:
            cursor.execute(compiled.sql, compiled.values({}))
            while rows := compiled.rows(_Page(cursor)):
                for row in rows:
                    on_row(row)

    database.transaction(work, retry=False)


class _Page:
    """A cursor of which "all" is a page."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def fetchall(self) -> list[Any]:
        found: list[Any] = self._cursor.fetchmany(PAGE)
        return found

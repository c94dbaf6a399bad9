"""Connections to SQLite: the standard library's, in write-ahead mode and without the driver's own transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar

from lapse.store.drivers import ROWS_OF_A_PAGE
from lapse.store.table_mapping import VERSION_TABLE

BUSY_LOOK_SECONDS = 0.2
"""How long SQLite itself waits for another write at a time: nothing can interrupt that wait."""
WRITE_AHEAD = "PRAGMA journal_mode = WAL"
"""Stays with the file."""
_CHECKPOINT_PAGES = 4_000
"""16 MB. Each checkpoint waits for the disk twice, and writes a page once that messages changed again and again."""
_IS_LAPSES = f"SELECT 1 FROM sqlite_master WHERE name = '{VERSION_TABLE}'"  # noqa: S608 - of a constant


class SqliteConnection(sqlite3.Connection):
    """One connection to a file, in autocommit mode."""

    begin: ClassVar[str] = "BEGIN IMMEDIATE"
    begin_snapshot: ClassVar[str] = "BEGIN"
    is_read_committed: ClassVar[bool] = True
    """Nobody writes beside a transaction, and single statements need none."""
    _is_running = False
    _runner: sqlite3.Cursor | None = None

    def run(
        self, sql: str, values: Mapping[str, Any] | list[tuple[Any, ...]], _is_lazy: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows; there is nothing to be lazy about, and a result cannot wait.

        Args:
            sql: the statement.
            values: by the names of its parameters; several rows of them: it is run for each, and returns nothing.

        Raises:
            sqlite3.Error: it cannot be done.
        """
        # One for all statements, so that it can be closed when a call was interrupted: a statement whose rows were not
        # all read is not committed, and keeps the file's write lock, for as long as a traceback knows its cursor.
        cursor = self._runner
        if cursor is None:
            cursor = self._runner = self.cursor()
        self._is_running = True
        try:
            run = cursor.executemany if isinstance(values, list) else cursor.execute
            rows: list[tuple[Any, ...]] = run(sql, values).fetchall()
        except sqlite3.Error:
            cursor.close()
            self._runner, self._is_running = None, False
            raise
        self._is_running = False
        return rows

    def pages(self, sql: str, values: Mapping[str, Any]) -> Iterator[list[tuple[Any, ...]]]:
        """Run a query inside a transaction and yield its rows, some at a time."""
        with closing(self.cursor()) as cursor:
            cursor.execute(sql, values)
            while rows := cursor.fetchmany(ROWS_OF_A_PAGE):
                yield rows

    def is_idle(self) -> bool:
        """Tell whether it is in no transaction, and in no statement."""
        return not self._is_running and not self.in_transaction

    def is_in_transaction(self) -> bool:
        """Tell whether it is in a transaction, which an error may have left."""
        return self.in_transaction

    def is_lost(self, _error: Exception) -> bool:
        """Tell that a file has no server to lose."""
        return False

    def discard(self) -> None:
        """Close it; what was not committed is rolled back."""
        self._is_running = True  # never idle again
        with suppress(sqlite3.Error):
            if self._runner is not None:
                self._runner.close()
            self.close()


def connect(path: Path | str) -> SqliteConnection:
    """Open the file, which is made where there is none, and is left as it is where it has no schema of lapse's.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    connection = sqlite3.connect(
        path,
        timeout=BUSY_LOOK_SECONDS,
        isolation_level=None,  # the driver's own transactions begin too late, and lose one of two updates
        check_same_thread=False,  # the pool lends it to one thread at a time
        factory=SqliteConnection,
    )
    try:
        if connection.execute(_IS_LAPSES).fetchall():
            connection.execute(WRITE_AHEAD)  # a copy that somebody made may be without
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection

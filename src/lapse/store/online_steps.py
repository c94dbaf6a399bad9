"""The steps of a migration that are done before its transaction, beside messages and workers: on PostgreSQL only.

A file in `migrations/versions` that has such steps defines `prepare(steps: OnlineSteps)`. Afterwards the schema still
has its old version, and serves the lapse of that version; a run that was interrupted is repeated, so each step looks
first at what is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg.errors import DeadlockDetected, LockNotAvailable

from lapse.errors import DatabaseUnavailableError
from lapse.store.connection import Connection
from lapse.store.database import Database
from lapse.store.migration_progress import MigrationProgress
from lapse.store.statement_progress import report_progress
from lapse.store.table_locks import LOCK_WAIT_SECONDS, PAUSE_SECONDS, holders_query, locked, taking

APPLICATION_NAME = "lapse migrate"
_TRY_LOCK = f"SELECT pg_try_advisory_xact_lock({0x6C61707362})"
"""`lapsb`: beside those of the schema and of adoptions."""
_NO_LIMITS = (
    "SELECT set_config(name, '0', {is_local}) FROM pg_settings WHERE name IN "
    "('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
)
"""By a query, since not every server version has every setting."""
_BUILDING = "SELECT pid FROM pg_stat_progress_create_index WHERE relid = to_regclass(%s) AND pid <> pg_backend_pid()"


class OnlineSteps:
    """What `prepare` of a migration works with: one session, in autocommit mode."""

    def __init__(self, driver: Any, progress: MigrationProgress) -> None:
        """Use this connection of psycopg, which is nobody else's."""
        self.driver = driver
        self.progress = progress

    def rows(self, query: str, *parameters: Any) -> list[Any]:
        """Return the rows of a query.

        Raises:
            psycopg.Error: the database refused, or the connection is lost.
        """
        found: list[Any] = self.driver.execute(query.encode(), parameters or None).fetchall()
        return found

    def value(self, query: str, *parameters: Any) -> Any:
        """Return the only value of the only row; errors as `rows`."""
        ((value,),) = self.rows(query, *parameters)
        return value

    def wait_for_builders(self, table: str) -> None:
        """Wait until no other session builds an index of this table; errors as `rows`.

        The statement of a killed run goes on in the server; two such statements would wait for each other's snapshots.
        """
        while others := self.rows(_BUILDING, table):
            listed = ", ".join(f"pid {pid}" for (pid,) in others)
            self.progress.message(f"waiting for an index of {table} that another session builds ({listed})")
            time.sleep(PAUSE_SECONDS)

    def run_long(self, statement: str) -> None:
        """Run a statement that is its own transaction, and report how far it is; errors as `rows`."""
        with report_progress(self.driver, self.progress.advance, self.progress.message):
            self.driver.execute(statement.encode())

    def run_locked(self, table: str, statements: Sequence[str]) -> None:
        """Run statements in one transaction that has the table for itself; it is tried until it gets it.

        Raises:
            DatabaseUnavailableError: somebody held a lock on the table for `LOCK_WAIT_SECONDS`.
            psycopg.Error: the database refused, or the connection is lost.
        """
        give_up_at = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                with self.driver.transaction():
                    for statement in (*taking(table), *statements):
                        self.driver.execute(statement.encode())
            except (LockNotAvailable, DeadlockDetected):
                holders = [f"pid {pid} ({name})" for pid, name in self.rows(holders_query(table))]
                if time.monotonic() > give_up_at:
                    raise DatabaseUnavailableError(locked(holders)) from None
                self.progress.message(f"waiting for a lock on {table}, held by {', '.join(holders) or 'somebody'}")
                time.sleep(PAUSE_SECONDS)
            else:
                return


def run_online(database: Database, work: Callable[[OnlineSteps], None], progress: MigrationProgress) -> None:
    """Do online steps while no other process does them; it is waited for.

    Args:
        database: on PostgreSQL.
        work: may be called again after a transient failure, and by another process: it looks first at what is there.
        progress: receives what is done, and what is waited for.

    Raises:
        DatabaseUnavailableError: somebody held a lock all the time, or the server cannot be reached.
        DatabaseError: the database refused.
    """

    def guarded(guard: Connection) -> None:
        _become_the_only_one(guard.driver, progress)
        with _own_session(database) as driver:
            work(OnlineSteps(driver, progress))

    database.transaction(guarded)


def _become_the_only_one(driver: Any, progress: MigrationProgress) -> None:
    """Take the lock of the transaction that is open: unlike a session's it ends with it, through a pooler, too.

    The transaction then holds no lock but this, and no snapshot, so that no statement of another session waits for it;
    one that waited in the database would have a snapshot. So would one with parameters: the server keeps its portal.
    """
    driver.execute(_NO_LIMITS.format(is_local="true").encode())
    is_first = True
    while not driver.execute(_TRY_LOCK.encode()).fetchone()[0]:
        if is_first:
            progress.message("waiting for another `lapse migrate`")
        is_first = False
        time.sleep(PAUSE_SECONDS)


@contextmanager
def _own_session(database: Database) -> Iterator[Any]:
    driver = database.connect()
    try:
        # A pooler would keep these settings for others: there those of the server hold.
        if driver.execute("SELECT pg_backend_pid()").fetchone()[0] == driver.info.backend_pid:
            driver.execute(_NO_LIMITS.format(is_local="false").encode())
            driver.execute("SELECT set_config('application_name', %s, false)", [APPLICATION_NAME])
        yield driver
    finally:
        driver.discard()

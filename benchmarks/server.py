"""A PostgreSQL server as in production: it waits for its disk, unlike that of the tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks.backlogs import Backlog, fill
from benchmarks.processes import NOW
from tests.support.postgres import Server
from tests.support.postgres_process import NoServerError, running_server, servers_found

PREFERRED_MAJOR = 15
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "min_wal_size": "2GB",
    "wal_keep_size": "256MB",  # what is read back after a checkpoint
    "maintenance_work_mem": "512MB",
    "autovacuum": "on",
    "shared_preload_libraries": "pg_stat_statements",
}
STATED = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
    "min_wal_size",
    "autovacuum",
)


@dataclass
class BenchServer:
    """A running server, and the templates that have been filled on it."""

    version: str
    admin: Server
    all_settings: Mapping[str, str]
    _templates: dict[tuple[Backlog, Path], str] = field(default_factory=dict)
    _number: int = 0

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings that a reader needs to know."""
        return {name: self.all_settings[name] for name in STATED}

    def template(self, backlog: Backlog, source: Path = NOW) -> str:
        """Return the name of a database that holds this backlog, with the schema of this source; it is filled once."""
        if (backlog, source) not in self._templates:
            self._number += 1  # a name is not used again: another one may have been forgotten
            name = f"template_{self._number}"
            fill(self.url_of(name, create=True), backlog, source)
            self._templates[backlog, source] = name
        return self._templates[backlog, source]

    def has_template(self, backlog: Backlog, source: Path = NOW) -> bool:
        """Tell whether a database with this backlog is there to copy."""
        return (backlog, source) in self._templates

    def forget(self, backlog: Backlog, source: Path = NOW) -> None:
        """Drop a template that takes much room."""
        if name := self._templates.pop((backlog, source), None):
            self.admin.drop_database(name)

    @contextmanager
    def copy_of(self, template: str, *, is_warm: bool = True) -> Iterator[str]:
        """Yield the URL of a fresh copy of a database, after a checkpoint; its pages in memory as far as they fit."""
        self._number += 1
        name = f"bench_{self._number}"
        self.admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        try:
            url = self.url_of(name)
            if is_warm:
                warm(url)
            self.admin.execute("CHECKPOINT")
            yield url
        finally:
            self.admin.drop_database(name)

    @contextmanager
    def backlog(self, backlog: Backlog, source: Path = NOW) -> Iterator[str]:
        """Yield the URL of a fresh database that holds this backlog, with the schema of this source."""
        with self.copy_of(self.template(backlog, source)) as url:
            yield url

    def url_of(self, database: str, *, create: bool = False) -> str:
        """Return a plain `postgresql://` URL, which lapse, psycopg and libpq all take."""
        if create:
            self.admin.create_database(database)
        return self.admin.url_of(database).replace("postgresql+psycopg://", "postgresql://")


@contextmanager
def bench_server(major: int | None, different: Mapping[str, str]) -> Iterator[BenchServer]:
    """Run a server of this major version (default: 15, else what there is), with some settings different.

    Raises:
        NoServerError: there is none.
    """
    found = servers_found()
    chosen = major or (PREFERRED_MAJOR if PREFERRED_MAJOR in found else max(found, default=0))
    if chosen not in found:
        raise NoServerError(f"no PostgreSQL {major or ''} here, only {sorted(found)}")
    settings = {**SETTINGS, **different}
    with running_server(settings, bin_folder=found[chosen]) as process:
        server = Server(f"postgresql-{chosen}", process.admin_url)
        [(version,)] = server.execute("SHOW server_version")
        if settings["fsync"] == "on":
            make_log_segments(server)
        yield BenchServer(version.split()[0], server, settings)


def make_log_segments(server: Server) -> None:
    """Make the segments of the log that `min_wal_size` keeps.

    A server that has been at work for a while uses its old segments again. A new one must fill each with zeros first,
    and all commits wait for that: some 55 ms for each 16 MB.
    """
    [(segments,)] = server.execute(
        "SELECT pg_size_bytes(current_setting('min_wal_size')) / pg_size_bytes(current_setting('wal_segment_size'))"
    )
    for _ in range(segments):
        server.execute("SELECT pg_logical_emit_message(false, 'lapse', ''), pg_switch_wal()")
    server.execute("CHECKPOINT")


def warm(url: str) -> None:
    """Read the tables and indexes of lapse into memory, so that every round begins alike."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
        connection.execute("""
            SELECT pg_prewarm(oid) FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') ORDER BY relkind""")

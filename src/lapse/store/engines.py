"""Connecting to a database: the drivers' own connections, and an engine of SQLAlchemy for migrations."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import sqlalchemy as sa

from lapse.errors import SettingsError
from lapse.store.drivers import sqlite

_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_MIN_SQLITE = (3, 35, 0)  # the first with RETURNING

READS_ONLY = "lapse_reads_only"
"""Execution option: no transaction on SQLite. Its isolation levels would bring back the driver's own transactions."""


def connector(url: sa.URL) -> Callable[[], Any]:
    """Return what connects to the database; nothing is connected yet.

    Raises:
        SettingsError: SQLite is too old, or a file that the URL names is not there.
    """
    if url.get_backend_name() == "sqlite":
        if sqlite3.sqlite_version_info < _MIN_SQLITE:
            needed = ".".join(map(str, _MIN_SQLITE))
            raise SettingsError(f"SQLite {sqlite3.sqlite_version} is too old: lapse needs {needed}")
        return partial(sqlite.connect, url.database or "")
    from lapse.store.drivers import postgresql  # needs psycopg, which SQLite does without

    _require_files(url)
    _, arguments = sa.create_engine(url).dialect.create_connect_args(url)
    # Not `partial`, whose representation shows the password.
    return lambda: postgresql.connect(arguments, json_text)


def async_connector(url: sa.URL) -> Callable[[], Any]:
    """Return what connects to PostgreSQL from an event loop; nothing is connected yet."""
    from lapse.store.drivers import asyncio

    _, arguments = sa.create_engine(url).dialect.create_connect_args(url)
    return lambda: asyncio.connect(arguments, json_text)


@cache
def dialect_of(name: str) -> sa.Dialect:
    """Return the dialect with which statements for `postgresql` or `sqlite` are compiled."""
    return make_engine(sa.make_url({"sqlite": "sqlite://"}.get(name, "postgresql+psycopg://")), lambda: None).dialect


def make_engine(url: sa.URL, connect: Callable[[], Any]) -> sa.Engine:
    """Return an engine of SQLAlchemy for migrations and inspection; it connects anew for each use."""
    options: dict[str, Any] = {
        "creator": connect,
        "poolclass": sa.NullPool,
        "hide_parameters": True,
        "json_serializer": json_text,
    }
    if url.get_backend_name() == "sqlite":
        # Named parameters, as psycopg's: `Connection` binds by name.
        engine = sa.create_engine(url, paramstyle="named", **options)
        sa.event.listen(engine, "begin", _begin_immediate)
        return engine
    # No such column as hstore's, so no look for the type on the first connection.
    return sa.create_engine(url, isolation_level="AUTOCOMMIT", use_native_hstore=False, **options)


def _require_files(url: sa.URL) -> None:
    """Check that the TLS files can be read: libpq may go on without a file that is missing."""
    for name in _TLS_FILES:
        path = url.query.get(name)
        if isinstance(path, str) and path not in ("", "system") and not os.access(path, os.R_OK):
            raise SettingsError(f"the database URL has {name}={path!r}, which is no file that can be read")


def json_text(value: Any) -> str:
    """Return the JSON text of a value."""
    # Nearly every one is empty, and the general way costs as much as half of what SQLite needs for a message.
    # No escapes: a database whose encoding is not UTF8 takes few of them, or none.
    return _encode(value) if value else "{}"


_encode = json.JSONEncoder(ensure_ascii=False).encode
"""`json.dumps` makes an encoder of its own for each value."""


def _begin_immediate(connection: sa.Connection) -> None:
    if not connection.get_execution_options().get(READS_ONLY):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

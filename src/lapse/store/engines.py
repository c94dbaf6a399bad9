"""Engines: SQLAlchemy's pools of connections, each connection made ready as lapse needs it."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from lapse.errors import SettingsError
from lapse.store.types import PLUS_SECONDS_FUNCTION, from_utc_text, utc_text

CONNECT_TIMEOUT_SECONDS = 5
TCP_USER_TIMEOUT_MS = 15_000
"""A database host that vanished without a word is given up after this time, not after the kernel's 15 minutes."""
KEEPALIVE_SECONDS = 5
"""One that vanished when it had everything and owed an answer: without a question each 5 s that took two hours."""
BUSY_LOOK_SECONDS = 0.2
"""How long SQLite waits for another write at a time: nothing can interrupt its own wait."""
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_MIN_SQLITE = (3, 35, 0)  # the first with RETURNING


READS_ONLY = "lapse_reads_only"
"""Execution option: no transaction on SQLite. Its isolation levels would bring back the driver's own transactions."""


def make_engine(url: sa.URL) -> sa.Engine:
    """Return an engine; nothing is connected yet. The driver's connections are in autocommit mode.

    Raises:
        SettingsError: SQLite is too old, or a file that the URL names is not there.
    """
    return _sqlite_engine(url) if url.get_backend_name() == "sqlite" else _postgresql_engine(url)


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    _require_files(url)
    # No startup `options`, no prepared statements, no session state: transaction poolers hand a session around.
    arguments: dict[str, Any] = {"prepare_threshold": None}
    defaults = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
        "keepalives_idle": KEEPALIVE_SECONDS,
        "keepalives_interval": KEEPALIVE_SECONDS,
        "application_name": "lapse",
    }
    arguments |= {name: value for name, value in defaults.items() if name not in url.query}
    return sa.create_engine(
        url,
        connect_args=arguments,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        pool_use_lifo=True,
        pool_reset_on_return=None,  # `Database` ends what it begins
        json_serializer=_json_of,
        json_deserializer=_object_of,
        use_native_hstore=False,  # no such column, so no look for the type on the first connection
    )


def _require_files(url: sa.URL) -> None:
    """Look for what secures the connection: for libpq a missing file may mean to do without."""
    for name in _TLS_FILES:
        path = url.query.get(name)
        if isinstance(path, str) and path not in ("", "system") and not os.access(path, os.R_OK):
            raise SettingsError(f"the database URL has {name}={path!r}, which is no file that can be read")


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        needed = ".".join(map(str, _MIN_SQLITE))
        raise SettingsError(f"SQLite {sqlite3.sqlite_version} is too old: lapse needs {needed}")
    engine = sa.create_engine(
        url,
        connect_args={"timeout": BUSY_LOOK_SECONDS},
        hide_parameters=True,
        paramstyle="named",  # as psycopg's: `Connection` binds by name
        json_serializer=_json_of,
        json_deserializer=_object_of,
        pool_reset_on_return=None,  # `Database` ends what it begins
    )
    sa.event.listen(engine, "connect", _prepare_sqlite_connection)
    sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def _json_of(value: Any) -> str:
    # Nearly every one is empty, and the general way costs as much as half of what SQLite needs for a message.
    return json.dumps(value) if value else "{}"


def _object_of(text: str) -> Any:
    return json.loads(text) if text != "{}" else {}


def _prepare_sqlite_connection(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction handling begins too late and lets two writers lose each other's update.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.create_function(PLUS_SECONDS_FUNCTION, 2, _plus_seconds, deterministic=True)


def _begin_immediate(connection: sa.Connection) -> None:
    if not connection.get_execution_options().get(READS_ONLY):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _plus_seconds(text: str | None, seconds: float) -> str | None:
    try:
        moment = from_utc_text(text)
        return None if moment is None else utc_text(moment + timedelta(seconds=seconds))
    except (TypeError, ValueError, OverflowError):
        # Written by others, and no time. NULL is never due, and cannot be written: that row alone is refused.
        return None

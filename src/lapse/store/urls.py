"""Database URLs: the spellings that are taken, and how they are shown without their secrets."""

from __future__ import annotations

import re

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lapse.errors import SettingsError

_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
}
# What libpq would say only once it connects, as if the server were away: a worker would wait for it for ever.
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "sslcertmode": ("disable", "allow", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
_WHOLE_NUMBERS = frozenset(
    {"connect_timeout", "tcp_user_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"}
)
_INSTEAD = {
    "pgbouncer": "remove it: lapse works behind a transaction pooler as it is",
    "ssl": "write sslmode=require, or better sslmode=verify-full",
}
"""What to do about parameters that other libraries understand."""
_SEVERAL = frozenset({"host", "port"})
"""Parameters that may be there once for each of several servers."""
_EXAMPLES = "use sqlite:///lapse.db or postgresql://user:password@host:5432/name"


def parse_url(text: str) -> URL:
    """Return the URL with the driver that lapse uses.

    Raises:
        SettingsError: it is no URL, of another database, or of a SQLite database that only lives in memory. The
            message never holds the URL: it may hold a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SettingsError(f"the database URL cannot be read; {_EXAMPLES}") from None
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise SettingsError(f"the database URL is of the kind {url.drivername!r}, which lapse cannot use; {_EXAMPLES}")
    if driver == "sqlite":
        _check_sqlite(url)
    elif "@" in (url.host or ""):
        raise SettingsError(f"the database URL has an @ too many: in a user or password write it as %40; {_EXAMPLES}")
    else:
        for name, value in url.query.items():
            _check_parameter(name, value)
    return url.set(drivername=driver)


def _check_sqlite(url: URL) -> None:
    if url.database in (None, "", ":memory:"):
        raise SettingsError("the SQLite URL names no file; use sqlite:///lapse.db, or four slashes for a full path")
    if url.host or url.username or url.query:
        raise SettingsError(
            "the SQLite URL has more than a file in it; use sqlite:///lapse.db, or four slashes for a full path"
        )


def _check_parameter(name: str, value: str | tuple[str, ...]) -> None:
    """Let a parameter of a PostgreSQL URL pass that libpq will take; only the harmless ones show their value."""
    from psycopg.pq import Conninfo

    if name not in {option.keyword.decode() for option in Conninfo.get_defaults()}:
        shown = repr(name) if re.fullmatch(r"\w{1,40}", name) else "with a name"  # a mistyped one may be anything
        instead = _INSTEAD.get(name, "remove it")
        raise SettingsError(f"the database URL has a parameter {shown} that PostgreSQL does not know; {instead}")
    if not isinstance(value, str):
        if name not in _SEVERAL:
            raise SettingsError(f"the database URL has the parameter {name!r} more than once")
        return
    if name in _CHOICES and value not in _CHOICES[name]:
        raise SettingsError(f"the database URL has {name}={value[:40]!r}; use one of {', '.join(_CHOICES[name])}")
    if name in _WHOLE_NUMBERS and not re.fullmatch(r"-?[0-9]{1,9}", value):
        raise SettingsError(f"the database URL has {name}={value[:40]!r}; use a whole number")


def safe_url(url: URL) -> str:
    """Return the URL as it may be shown: no password, no query (which can hold one, too)."""
    return url.set(query={}).render_as_string(hide_password=True)

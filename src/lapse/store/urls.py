"""Database URLs: the spellings that are taken, and how they are shown without their secrets."""

from __future__ import annotations

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
    return url.set(drivername=driver)


def _check_sqlite(url: URL) -> None:
    if url.database in (None, "", ":memory:"):
        raise SettingsError("the SQLite URL names no file; use sqlite:///lapse.db, or four slashes for a full path")
    if url.host or url.username or url.query:
        raise SettingsError(
            "the SQLite URL has more than a file in it; use sqlite:///lapse.db, or four slashes for a full path"
        )


def safe_url(url: URL) -> str:
    """Return the URL as it may be shown: no password, no query (which can hold one, too)."""
    return url.set(query={}).render_as_string(hide_password=True)

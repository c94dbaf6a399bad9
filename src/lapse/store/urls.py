"""Database URLs: the spellings that are taken, and how they are shown without their secrets.

A password with a character that has a meaning in URLs may be read as host, database or parameter, and those are shown,
by libpq as well. So whatever can be read in two ways is refused, by a message that holds nothing of the URL.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lapse.errors import SettingsError
from lapse.store.url_parameters import read_parameters
from lapse.validation import MAX_PORT

_POSTGRESQL = re.compile(r"(postgres|postgresql|pgsql)(\+\w+)?")
"""With any driver: it is the application's, and lapse has its own."""
_SQLITE = ("sqlite", "sqlite+pysqlite", "sqlite+aiosqlite")
_LOCATION = re.compile(r"(?:\[[0-9A-Za-z:.%_-]+\]|[\w.,-]*)(?::[0-9]*)?(?:/[^?]*)?(?:\?.*)?")
"""What follows user and password: host, port, database, parameters; as SQLAlchemy reads it, but all of it."""
_STRUCTURE = re.compile(r"[:/?#&=]")
"""What neither a user nor a database is called; where it is there, something was meant to be another part."""
_EXAMPLES = "use sqlite:///lapse.db or postgresql://user:password@host:5432/name"
_ESCAPES = "in a user or password write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, % as %25"
_A_FILE = "use sqlite:///lapse.db, or four slashes for a full path"


class _SafeUrl(URL):
    """A URL that shows no secret, wherever it is printed."""

    def __repr__(self) -> str:
        return safe_url(self)

    __str__ = __repr__


def parse_url(text: str) -> URL:
    """Return the URL with the driver that lapse uses, and with that driver's parameters.

    Raises:
        SettingsError: it is no URL, of another database, of a SQLite database that only lives in memory, can be read in
            more than one way, or has a parameter, host or port that cannot be. The message never holds the URL: it may
            hold a password.
    """
    if not isinstance(text, str):
        raise SettingsError(f"a database is named by its URL as text, not by a {type(text).__name__}; {_EXAMPLES}")
    text = text.lstrip().rstrip("\r\n")  # what a file of secrets ends with; a space may be a part of one
    try:
        text.encode()  # as UTF-8: half a surrogate pair stands for a byte that is no text
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _unreadable() from None
    if not text.isprintable():
        raise _unreadable()
    kind = url.drivername.lower()
    if _POSTGRESQL.fullmatch(kind):
        return _of_postgresql(text.partition("://")[2], url)
    if kind in _SQLITE:
        return _of_sqlite(text.partition("://")[2], url)
    raise SettingsError(f"the database URL is of the kind {url.drivername[:20]!r}, which lapse cannot use; {_EXAMPLES}")


def safe_url(url: URL) -> str:
    """Return the URL as it may be shown: no password, no query (which can hold one, too)."""
    return url.set(query={}).render_as_string(hide_password=True)


def _of_postgresql(text: str, url: URL) -> URL:
    """Return the URL of which `text` is what follows `://`."""
    if text.count("@") > 1:
        raise SettingsError(f"the database URL has an @ too many: {_ESCAPES}; {_EXAMPLES}")
    location = text
    if url.username is not None:
        login, _, location = text.partition("@")
        # `a:5432/b?c=d@e` is host and database for all but SQLAlchemy, for which it is a password.
        if re.search(r"[?#]|^[^:]*:[0-9]*/", login):
            raise SettingsError(f"the database URL can be read in two ways: {_ESCAPES}; {_EXAMPLES}")
    if not _LOCATION.fullmatch(location) or not 0 < (url.port or 1) <= MAX_PORT:
        raise _unreadable()
    for part, value in (("user", url.username), ("database", url.database)):
        if value and (_STRUCTURE.search(value) or not value.isprintable()):
            raise SettingsError(
                f"the {part} in the database URL has one of : / ? # & = in it, which part a URL; {_EXAMPLES}"
            )
    if url.database and "@" in url.database:
        raise SettingsError(f"the database URL has an @ in the wrong place: {_ESCAPES}; {_EXAMPLES}")
    if "\0" in (url.password or ""):
        raise SettingsError("the password in the database URL holds a NUL character, which PostgreSQL cannot take")
    query = read_parameters(location.partition("?")[2], dict(url.query))
    password = query.pop("password", None)  # libpq takes that one first, too
    if isinstance(password, str):
        url = url.set(password=password)
    found = _SafeUrl.create(
        "postgresql+psycopg", url.username, url.password, url.host, url.port, url.database, query=query
    )
    _check_servers(found)
    return found


def _check_servers(url: URL) -> None:
    """Let a URL pass whose hosts and ports are such; libpq would look for others as if they were away."""
    try:
        arguments = url.get_dialect()().create_connect_args(url)[1]
    except ArgumentError:
        raise SettingsError(
            "the hosts and the ports in the database URL do not fit together: write one port for each host, a whole "
            f"number; {_EXAMPLES}"
        ) from None
    for port in str(arguments.get("port") or "").split(","):
        if port and not (port.isascii() and port.isdecimal() and 0 < int(port) <= MAX_PORT):
            raise SettingsError(f"a port in the database URL is none: use 1 to {MAX_PORT}; {_EXAMPLES}")
    for host in str(arguments.get("host") or "").split(","):
        if ":" in host and not _is_folder_or_ipv6(host):
            raise SettingsError(f"a host in the database URL is none; {_EXAMPLES}")


def _is_folder_or_ipv6(host: str) -> bool:
    if host.startswith(("/", "@")):
        return True
    try:
        IPv6Address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _of_sqlite(text: str, url: URL) -> URL:
    """Return the URL of which `text` is what follows `://`."""
    file = url.database or ""
    if not file.strip() or file.lower().rpartition("/")[2].strip() == ":memory:":
        raise SettingsError(f"the SQLite URL names no file; {_A_FILE}")
    if url.host or url.username or url.password or url.port or url.query:
        raise SettingsError(f"the SQLite URL has more than a file in it; {_A_FILE}")
    if re.search(r"[?#]", text + file):
        raise SettingsError(f"the SQLite URL has a ? or # in it, which no file of lapse's has in its name; {_A_FILE}")
    if file.lower().startswith("file:"):
        raise SettingsError(f"the SQLite URL has a file: URI in it, and not the name of a file; {_A_FILE}")
    if not file.isprintable():
        raise _unreadable()
    return url.set(drivername="sqlite")


def _unreadable() -> SettingsError:
    return SettingsError(f"the database URL cannot be read; {_EXAMPLES}")

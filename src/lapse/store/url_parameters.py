"""Parameters of a PostgreSQL URL: those that libpq takes, and what becomes of other drivers' own."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lapse.errors import SettingsError

Query = dict[str, str | tuple[str, ...]]

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
_SEVERAL = frozenset({"host", "port"})
"""Parameters that may be there once for each of several servers."""
_SECRETS = frozenset({"password", "sslpassword"})
_NEEDLESS = frozenset({"prepared_statement_cache_size", "statement_cache_size"})
"""How many statements another driver keeps prepared: lapse prepares none."""
_REMOVE = "remove it"
_INSTEAD = {
    "pgbouncer": "remove it: lapse works behind a transaction pooler as it is",
    "ssl": "write sslmode=require, or better sslmode=verify-full",
    "timeout": "write connect_timeout, in seconds",
    "pool_timeout": _REMOVE,
    "command_timeout": "remove it: statement_timeout is a setting of the database's role",
    "socket_timeout": "write tcp_user_timeout, in milliseconds",
    "unix_sock": "write host, with the folder of the socket",
    "sslaccept": "write sslmode",
    "schema": "remove it: search_path is a setting of the database's role",
    **dict.fromkeys(
        (
            "async_fallback",
            "autocommit",
            "connection_limit",
            "direct_tls",
            "max_cached_statement_lifetime",
            "max_cacheable_statement_size",
            "prepare_threshold",
            "prepared_statement_name_func",
            "server_settings",
            "ssl_context",
            "tcp_keepalive",
        ),
        _REMOVE,
    ),
}
"""What to do about parameters that other libraries understand."""


def read_parameters(text: str, query: Mapping[str, str | tuple[str, ...]]) -> Query:
    """Return the parameters for libpq.

    Args:
        text: what follows the question mark.
        query: what was read from it.

    Raises:
        SettingsError: libpq would not take one, or something is none. Only harmless ones show their name or value.
    """
    if any("=" not in part for part in text.split("&") if part):
        raise SettingsError("the database URL has something after its ? that is no parameter: they are name=value")
    found: Query = {name: value for name, value in query.items() if name not in _NEEDLESS}
    if "sslmode" not in found and found.get("ssl") in _CHOICES["sslmode"]:
        found["sslmode"] = found.pop("ssl")  # asyncpg's name for the same
    has_secret = not _SECRETS.isdisjoint(found)
    for name, value in found.items():
        _check(name, value, has_secret=has_secret)
    return found


def _check(name: str, value: str | tuple[str, ...], *, has_secret: bool) -> None:
    from psycopg.pq import Conninfo

    if name not in {option.keyword.decode() for option in Conninfo.get_defaults()}:
        # A mistyped one may be anything, and after an & in a password it is a part of that.
        is_harmless = name in _INSTEAD or (not has_secret and re.fullmatch(r"\w{1,40}", name))
        shown = repr(name) if is_harmless else "with a name"
        instead = _INSTEAD.get(name, _REMOVE)
        raise SettingsError(f"the database URL has a parameter {shown} that PostgreSQL does not know; {instead}")
    if not isinstance(value, str):
        if name not in _SEVERAL:
            raise SettingsError(f"the database URL has the parameter {name!r} more than once")
        return
    if "\0" in value:
        raise SettingsError(f"the database URL has a NUL character in the parameter {name!r}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise SettingsError(f"the database URL has {name}={value[:40]!r}; use one of {', '.join(_CHOICES[name])}")
    if name in _WHOLE_NUMBERS and not re.fullmatch(r"-?[0-9]{1,9}", value):
        raise SettingsError(f"the database URL has {name}={value[:40]!r}; use a whole number")

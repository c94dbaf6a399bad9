"""Detects a transaction pooler, which shares a server session between clients: adoption needs one of its own."""

from __future__ import annotations

import secrets
from typing import Any

import psycopg

from lapse.errors import AdoptionError

_ATTEMPTS = 5
_APPLICATION_NAME = "lapse adopt"
"""Not the name of workers: a pooler keeps the session, and `lapse unadopt` finds workers by their name."""
_CONNECT_SECONDS = 10
_MARK = "SELECT set_config('lapse.mark', %s, false)"


def require_own_session(connection: psycopg.Connection[Any]) -> None:
    """Check that the connection has a server session of its own: direct, or through a pooler in session mode.

    Args:
        connection: in autocommit mode, outside a transaction.

    Raises:
        AdoptionError: a pooler in transaction mode shares the session.
        psycopg.Error: the connection is lost.
    """
    # A pooler reports a process ID of its own, in either mode.
    if _value(connection, "SELECT pg_backend_pid()") != connection.info.backend_pid and _is_shared(connection):
        raise AdoptionError(
            "This connection goes through a pooler in transaction mode; nothing was changed: use the database's own "
            "address or a pooler in session mode (on Supabase the direct or the session pooler's URL)"
        )


def _is_shared(connection: psycopg.Connection[Any]) -> bool:
    """Mark the session, and tell whether a second client is assigned to it."""
    mark, info = secrets.token_hex(8), connection.info
    try:
        with psycopg.connect(
            info.dsn,
            password=info.password or None,
            application_name=_APPLICATION_NAME,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
        ) as other:
            # A pooler assigns the session that was used last; in a busy one another client may get it first.
            for _ in range(_ATTEMPTS):
                _value(connection, _MARK, mark)
                if _value(other, "SELECT current_setting('lapse.mark', true)") == mark:
                    return True
    except psycopg.OperationalError:
        if connection.closed:
            raise
        # There is no second session: then the pooler cannot share this one.
    finally:
        if not connection.closed:
            _value(connection, _MARK, "")
    return False


def _value(connection: psycopg.Connection[Any], query: str, *parameters: str) -> Any:
    row = connection.execute(query.encode(), parameters or None).fetchone()
    return row[0] if row else None

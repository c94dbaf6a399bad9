"""Whether a pooler keeps a session to its client, or hands it around between transactions: only the first will do."""

from __future__ import annotations

import secrets
from typing import Any

import psycopg

from lapse.errors import AdoptionError

_TRIES = 5
_NAME = "lapse adopt"
"""None of a worker's: a pooler keeps the session under it, and `lapse unadopt` looks for workers by name."""
_CONNECT_SECONDS = 10
_MARK = "SELECT set_config('lapse.mark', %s, false)"


def require_own_session(connection: psycopg.Connection[Any]) -> None:
    """Let a connection pass that has its session to itself, through a pooler in session mode, too.

    Args:
        connection: in autocommit mode, outside a transaction.

    Raises:
        AdoptionError: the pooler hands its session around.
    """
    # A pooler hands out a process number of its own making, in either mode.
    if _value(connection, "SELECT pg_backend_pid()") != connection.info.backend_pid and _is_shared(connection):
        raise AdoptionError(
            "This is a connection of a pooler's, which hands sessions around; nothing was changed: use the database's "
            "own address or a pooler in session mode (on Supabase the direct or the session pooler's URL)"
        )


def _is_shared(connection: psycopg.Connection[Any]) -> bool:
    """Mark the session, and see whether another client comes to it."""
    mark, info = secrets.token_hex(8), connection.info
    try:
        with psycopg.connect(
            info.dsn,
            password=info.password or None,
            application_name=_NAME,
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
        ) as other:
            # A pooler gives what was used last; in a busy one somebody else may be first.
            for _ in range(_TRIES):
                _value(connection, _MARK, mark)
                if _value(other, "SELECT current_setting('lapse.mark', true)") == mark:
                    return True
    except psycopg.OperationalError:
        if connection.closed:
            raise
        # No second session to be had: then this one is kept.
    finally:
        if not connection.closed:
            _value(connection, _MARK, "")
    return False


def _value(connection: psycopg.Connection[Any], query: str, *parameters: str) -> Any:
    row = connection.execute(query.encode(), parameters or None).fetchone()
    return row[0] if row else None

"""A look, from beside, at a statement that takes long: how far it is, and for whom it waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection

FIRST_LOOK_SECONDS = 2.0
"""Most statements are done by then, and need no second connection."""
LOOK_SECONDS = 2.0
_CONNECT_SECONDS = 5
_JOIN_SECONDS = 1.0

_PROGRESS = "SELECT blocks_done, blocks_total FROM pg_stat_progress_create_index WHERE pid = %s AND blocks_total > 0"
_BLOCKING = """
    SELECT a.pid, coalesce(nullif(a.application_name, ''), a.backend_type, 'unnamed')
    FROM unnest(pg_blocking_pids(%s)) AS blocking (pid) JOIN pg_stat_activity a USING (pid) ORDER BY 1"""


@contextmanager
def looking(
    connection: Connection[Any], advance: Callable[[int, int], None], tell: Callable[[str], None]
) -> Iterator[None]:
    """Look at what this connection does meanwhile, unless it is done soon.

    Args:
        connection: whose statement it is.
        advance: is told how many of how many blocks an index was built from.
        tell: is told who is waited for.
    """
    done, pid = threading.Event(), int(connection.execute("SELECT pg_backend_pid()").fetchall()[0][0])
    looker = threading.Thread(target=_look, args=(connection.info, pid, done, advance, tell), daemon=True)
    looker.start()
    try:
        yield
    finally:
        done.set()
        looker.join(_JOIN_SECONDS)  # a pooler without a free session may keep it waiting


def _look(
    info: psycopg.ConnectionInfo,
    pid: int,
    done: threading.Event,
    advance: Callable[[int, int], None],
    tell: Callable[[str], None],
) -> None:
    if done.wait(FIRST_LOOK_SECONDS):
        return
    try:
        # In autocommit mode: a transaction that stays open would itself be waited for.
        with psycopg.connect(
            info.dsn,
            password=info.password or None,
            application_name="lapse adopt",
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
        ) as beside:
            while not done.wait(LOOK_SECONDS):
                built = beside.execute(_PROGRESS, [pid]).fetchall()
                waits_for = [f"pid {other} ({name})" for other, name in beside.execute(_BLOCKING, [pid])]
                if done.is_set():
                    return
                for blocks, total in built:
                    advance(blocks, total)
                if waits_for:
                    tell(f"waiting for the transaction of {', '.join(waits_for)}")
    except psycopg.Error:
        return  # nobody needs to know

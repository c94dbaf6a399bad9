"""Reports the progress of a long statement from a second connection: how far it is, and which sessions block it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection

FIRST_POLL_SECONDS = 2.0
"""Most statements are done by then, and need no second connection."""
POLL_SECONDS = 2.0
_CONNECT_SECONDS = 5
_JOIN_SECONDS = 1.0

_PROGRESS = "SELECT blocks_done, blocks_total FROM pg_stat_progress_create_index WHERE pid = %s AND blocks_total > 0"
_BLOCKING = """
    SELECT a.pid, coalesce(nullif(a.application_name, ''), a.backend_type, 'unnamed')
    FROM unnest(pg_blocking_pids(%s)) AS blocking (pid) JOIN pg_stat_activity a USING (pid) ORDER BY 1"""


@contextmanager
def report_progress(
    connection: Connection[Any], advance: Callable[[int, int], None], message: Callable[[str], None]
) -> Iterator[None]:
    """Report the progress of the statement that runs inside, unless it is done within `FIRST_POLL_SECONDS`.

    Errors of the second connection are ignored: without it the statement runs unreported.

    Args:
        connection: the one that runs the statement.
        advance: receives the blocks that are done, and their total, while an index is built.
        message: receives a line that names the sessions that block the statement.

    Raises:
        psycopg.Error: `connection` is lost.
    """
    done, pid = threading.Event(), int(connection.execute("SELECT pg_backend_pid()").fetchall()[0][0])
    poller = threading.Thread(target=_poll, args=(connection.info, pid, done, advance, message), daemon=True)
    poller.start()
    try:
        yield
    finally:
        done.set()
        poller.join(_JOIN_SECONDS)  # a pooler without a free session may keep it waiting


def _poll(
    info: psycopg.ConnectionInfo,
    pid: int,
    done: threading.Event,
    advance: Callable[[int, int], None],
    message: Callable[[str], None],
) -> None:
    if done.wait(FIRST_POLL_SECONDS):
        return
    try:
        # In autocommit mode: CREATE INDEX CONCURRENTLY would wait for a transaction that stays open.
        with psycopg.connect(
            info.dsn,
            password=info.password or None,
            application_name=info.parameter_status("application_name") or "lapse",
            autocommit=True,
            connect_timeout=_CONNECT_SECONDS,
        ) as observer:
            while not done.wait(POLL_SECONDS):
                progress = observer.execute(_PROGRESS, [pid]).fetchall()
                blockers = [f"pid {other} ({name})" for other, name in observer.execute(_BLOCKING, [pid])]
                if done.is_set():
                    return
                for blocks, total in progress:
                    advance(blocks, total)
                if blockers:
                    message(f"waiting for the transaction of {', '.join(blockers)}")
    except psycopg.Error:
        return  # progress is optional

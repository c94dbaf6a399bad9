"""`lapse adopt` as a process that is killed, and at which of its steps that was."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from typing import Any

import psycopg

from tests.support.commands import LAPSE, environment

STEPS = ("install", "backfill", "check", "indexes", "duplicates", "unique index", "end", "done")
PATIENCE_SECONDS = 120

# By what is there already: only the catalog is read, so that looking disturbs nobody.
_STEP = """
    SELECT CASE
        WHEN to_regclass('lapse_adoption') IS NULL THEN 'install'
        WHEN to_regclass('lapse_schema_version') IS NOT NULL THEN 'done'
        WHEN EXISTS (SELECT FROM built WHERE relname = 'uq_conversations_open_session' AND indisvalid)
            AND to_regclass('ix_conversations_open_session') IS NULL THEN 'end'
        WHEN to_regclass('uq_conversations_open_session') IS NOT NULL THEN 'unique index'
        WHEN (SELECT count(*) FROM built WHERE indisvalid) = 6 THEN 'duplicates'
        WHEN EXISTS (SELECT FROM built) THEN 'indexes'
        WHEN EXISTS (SELECT FROM pg_constraint WHERE conname = 'ck_conversations_session_key') THEN 'check'
        ELSE 'backfill' END"""
_BUILT = """
    WITH built AS (
        SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = 'conversations'::regclass AND relname IN (
            'ix_conversations_open_session', 'ix_conversations_expires_at_open',
            'ix_conversations_idle_check_at_active', 'ix_conversations_idle_timeout_seconds_active',
            'ix_conversations_ended_at_closed', 'ix_conversations_session_history_not_open',
            'uq_conversations_open_session'))"""


def step_of(connection: psycopg.Connection[Any]) -> str:
    """Return the step that an adoption of this database is at."""
    return str(connection.execute((_BUILT + _STEP).encode()).fetchall()[0][0])


def kill_adoption(url: str, connection: psycopg.Connection[Any], after: str, chance: random.Random) -> str | None:
    """Run `lapse adopt`, kill it a moment after it has come to a step, and return the step that it was at.

    Returns:
        None where it came to its end first.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*LAPSE, "adopt", "--database-url", url],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until(process, connection, url, after)
            if step_of(connection) != STEPS[-1]:
                time.sleep(10 ** chance.uniform(-3, -0.7))  # a millisecond, or two hundred: steps are short and long
            step = step_of(connection)
        finally:
            process.kill()
            code = process.wait()
        if code == 0:
            return None
        output.seek(0)
        assert code == -9, f"adopt ended by itself: {code}\n{output.read()}"
    return step


def _wait_until(process: subprocess.Popen[bytes], connection: psycopg.Connection[Any], url: str, after: str) -> None:
    """Wait until the process has a connection, and the adoption has come so far."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    is_there = False
    while process.poll() is None:
        is_there = is_there or _is_connected(connection)
        if is_there and STEPS.index(step_of(connection)) >= STEPS.index(after):
            return
        assert time.monotonic() < deadline, f"{url}: not at {after!r} in {PATIENCE_SECONDS} seconds"
        time.sleep(0.005)


def _is_connected(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether lapse has a session in this database."""
    query = """SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'lapse%')"""
    return bool(connection.execute(query).fetchall()[0][0])

"""What stands in the sessions that a transaction pooler hands around: whatever is left there, others will find."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import make_url

from tests.support.pgbouncer import POOL_SIZE

# Each is a query for what a statement outside a transaction could have left behind in the session that answers.
STATE = {
    "prepared statements": "SELECT name, statement FROM pg_prepared_statements",
    "channels": "SELECT pg_listening_channels()",
    "advisory locks": "SELECT * FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "temporary tables": "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    "cursors": "SELECT name FROM pg_cursors WHERE is_holdable",
    "role": "SELECT current_user WHERE current_user <> session_user",
    # The pooler itself sets the application's name, for each of its clients.
    "settings": "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name <> 'application_name'",
}
_IN_TRANSACTION = """
    SELECT pid, state, query FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'"""


@dataclass
class PooledSessions:
    """The server's sessions of one database, by process id, and what stands in each."""

    by_pid: dict[int, dict[str, list[Any]]] = field(default_factory=dict)
    open_transactions: list[Any] = field(default_factory=list)

    @property
    def state(self) -> dict[str, set[Any]]:
        """Return what stands in any of them."""
        return {name: {row for session in self.by_pid.values() for row in session[name]} for name in STATE}

    def left_since(self, before: PooledSessions) -> dict[str, Any]:
        """Return what was left behind since then; empty if nothing was."""
        left: dict[str, Any] = {
            name: rows - before.state[name] for name, rows in self.state.items() if rows - before.state[name]
        }
        return left | ({"open transactions": self.open_transactions} if self.open_transactions else {})


def look_at_pooled_sessions(pooled_url: str, direct_url: str) -> PooledSessions:
    """Look into every session of the pool: transactions that are open at the same time have one each.

    Fails unless these are all that the pooler has for this database.
    """
    sessions = PooledSessions()
    with closing(_connect(direct_url)) as direct, ExitStack() as stack:
        sessions.open_transactions = direct.execute(_IN_TRANSACTION).fetchall()
        free = POOL_SIZE - len(sessions.open_transactions)
        clients = [stack.enter_context(closing(_connect(pooled_url))) for _ in range(free)]
        for client in clients:
            client.execute("BEGIN")
            ((pid,),) = client.execute("SELECT pg_backend_pid()").fetchall()
            sessions.by_pid[pid] = {name: client.execute(query.encode()).fetchall() for name, query in STATE.items()}
        assert len(sessions.by_pid) == free
        in_use = {row[0] for row in sessions.open_transactions}
        assert _pids_of_pool(pooled_url) == set(sessions.by_pid) | in_use
        for client in clients:
            client.execute("ROLLBACK")
    return sessions


def _pids_of_pool(pooled_url: str) -> set[int]:
    """Ask the pooler's console for its connections to the database of this URL."""
    url = make_url(pooled_url)
    console = url.set(database="pgbouncer").render_as_string(hide_password=False)
    with closing(_connect(console)) as connection:
        servers = connection.cursor(row_factory=dict_row).execute("SHOW SERVERS").fetchall()
    return {server["remote_pid"] for server in servers if server["database"] == url.database}


def _connect(url: str) -> psycopg.Connection[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, prepare_threshold=None)

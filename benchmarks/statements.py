"""The very statements that lapse sends, noted as it sends them: for EXPLAIN, and for the same SQL without lapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import psycopg

from lapse.store.statements import Statement

Sent = tuple[str, dict[str, Any]]


def statements_of(call: Callable[[], Any]) -> list[Sent]:
    """Run the call, and return the SQL and the driver's parameters of each statement that it sent."""
    sent: list[Sent] = []
    bind = Statement.bind

    def note(statement: Statement, values: Mapping[str, Any], *now: Any) -> dict[str, Any]:
        bound = bind(statement, values, *now)
        sent.append((statement.sql, bound))
        return bound

    with mock.patch.object(Statement, "bind", note):
        call()
    return sent


def explained(connection: psycopg.Connection, statement: Sent) -> str:
    """Run a statement under `EXPLAIN (ANALYZE, BUFFERS)`, take back what it did, and return its plan."""
    sql, values = statement
    with connection.transaction(force_rollback=True):
        rows = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, SETTINGS) {sql}".encode(), values).fetchall()
    return "\n".join(str(row[0]) for row in rows)

"""The very statements that lapse sends, noted as it sends them: for EXPLAIN, and for the same SQL without lapse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import psycopg

from lapse.store.connection import CompiledStatement

Sent = tuple[str, dict[str, Any]]


def statements_of(call: Callable[[], Any]) -> list[Sent]:
    """Run the call, and return the SQL and the driver's parameters of each statement that it sent."""
    sent: list[Sent] = []
    values_of = CompiledStatement.values

    def note(compiled: CompiledStatement, parameters: Any) -> dict[str, Any]:
        values = values_of(compiled, parameters)
        sent.append((compiled.sql, values))
        return values

    with mock.patch.object(CompiledStatement, "values", note):
        call()
    return sent


def explained(connection: psycopg.Connection, statement: Sent) -> str:
    """Run a statement under `EXPLAIN (ANALYZE, BUFFERS)`, take back what it did, and return its plan."""
    sql, values = statement
    with connection.transaction(force_rollback=True):
        rows = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, SETTINGS) {sql}".encode(), values).fetchall()
    return "\n".join(str(row[0]) for row in rows)

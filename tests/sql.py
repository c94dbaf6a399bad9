"""Plain SQL beside lapse, as an operator or another application would run it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lapse.store import Database


def run_sql(database: Database, statement: str, **parameters: Any) -> list[sa.Row[Any]]:
    """Run a statement that both databases understand; times are written into it as literals."""

    def work(connection: sa.Connection) -> list[sa.Row[Any]]:
        result = connection.execute(sa.text(statement), parameters)
        return list(result) if result.returns_rows else []

    return database.transaction(work)


def count(database: Database, table: str) -> int:
    """Return how many rows a table has."""
    return int(run_sql(database, f"SELECT count(*) FROM {table}")[0][0])

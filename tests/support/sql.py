"""Plain SQL beside lapse, as an operator or another application would run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from lapse.store import Database
from lapse.store.tables import Tables


@contextmanager
def transaction(database: Database) -> Iterator[sa.Connection]:
    """Hand out a connection of SQLAlchemy's, in a transaction of its own."""
    options = {"isolation_level": "READ COMMITTED"} if database.dialect == "postgresql" else {}
    with database.engine.execution_options(**options).begin() as connection:
        yield connection


def run_sql(database: Database, statement: str, **parameters: Any) -> list[sa.Row[Any]]:
    """Run a statement that both databases understand; times are written into it as literals."""

    def work(connection: sa.Connection) -> list[sa.Row[Any]]:
        result = connection.execute(sa.text(statement), parameters)
        return list(result) if result.returns_rows else []

    return database.schema_transaction(work)


def own_tables(database: Database) -> Tables:
    """Return lapse's own tables with the types that they have in this database."""
    database.shape()
    return (database.statements or database.default_statements).tables


def count(database: Database, table: str) -> int:
    """Return how many rows a table has."""
    return int(run_sql(database, f"SELECT count(*) FROM {table}")[0][0])

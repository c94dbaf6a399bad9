"""Looking at a database in which something was planted, inside one transaction that is rolled back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy.dialects import postgresql

from lapse.adoption.doctor import Diagnosis, examine_within
from lapse.store.connection import Connection, StatementCache
from lapse.store.drivers.postgresql import PostgresqlConnection

_STATEMENTS = StatementCache(postgresql.dialect())  # type: ignore[no-untyped-call]


@contextmanager
def rolled_back(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Undo what is done meanwhile; the connection is in autocommit mode."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def diagnose(connection: psycopg.Connection[Any]) -> Diagnosis:
    """Return what doctor finds from within the connection's transaction."""
    return examine_within(as_lapses(connection))


def as_lapses(connection: psycopg.Connection[Any]) -> Connection:
    """Return the connection as the command has it."""
    connection.__class__ = PostgresqlConnection
    return Connection(connection, _STATEMENTS)


def with_fault(connection: psycopg.Connection[Any], fault: str) -> Diagnosis:
    """Return what doctor finds once these statements have run; then they are undone.

    Args:
        connection: in autocommit mode; its role may do what the statements do.
        fault: SQL. `SET LOCAL ROLE` in it is the role that looks.
    """
    with rolled_back(connection):
        connection.execute(fault.encode())
        return diagnose(connection)


def codes(diagnosis: Diagnosis) -> list[str]:
    """Return the codes of all findings, each once, those of warnings in brackets."""
    return sorted({f"({found.code})" if found.level == "warning" else found.code for found in diagnosis.findings})

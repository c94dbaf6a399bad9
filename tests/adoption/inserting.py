"""What the legacy application writes, and what became of it: for tests of lapse's triggers."""

from __future__ import annotations

from typing import Any

from tests.adoption.installed_functions import Connection

AGENT, ANA, BOB = "+14155238886", "+5511999999999", "+5511888888888"
KEY = f"{AGENT}::{ANA}"
DUPLICATE = ("expired", "duplicate_session", "application")


def insert(connection: Connection, customer: str = ANA, **values: Any) -> Any:
    """Insert a conversation as the legacy application does, and return its id."""
    row = {"owner_id": 1, "from_number": AGENT, "to_number": customer} | values
    places = ", ".join(["%s"] * len(row))
    statement = f"INSERT INTO conversations ({', '.join(row)}) VALUES ({places}) RETURNING conv_id"
    [(conv_id,)] = connection.execute(statement.encode(), list(row.values()))
    return conv_id


def found(connection: Connection, what: str, more: str = "") -> list[Any]:
    rows = connection.execute(f"SELECT {what} FROM conversations {more} ORDER BY conv_id".encode()).fetchall()
    return [row[0] if len(row) == 1 else row for row in rows]


def events(connection: Connection) -> list[Any]:
    return connection.execute(
        "SELECT conv_id, from_status, to_status, reason, actor FROM conversation_events ORDER BY conv_id, occurred_at"
    ).fetchall()

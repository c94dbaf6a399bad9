"""The application that the legacy table belongs to: what it writes and reads, knowing nothing of lapse."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from tests.adoption.legacy_table import Form

BUSINESS = "+14155238886"
NEVER = None


def ago(hours: float) -> datetime:
    """Return a moment in the past, or with a negative number in the future."""
    return datetime.now(UTC) - timedelta(hours=hours)


def owner_of(form: Form, number: int = 7) -> Any:
    """Return one of the owners that `old_table.fill` makes, of 0 to 19."""
    if form.owner_id == "bigint":
        return 1 + number
    return uuid.UUID(hashlib.md5(f"owner{number}".encode(), usedforsecurity=False).hexdigest())


class LegacyApplication:
    """Its statements, each in a transaction of its own."""

    def __init__(self, connection: psycopg.Connection[Any], form: Form) -> None:
        self._connection = connection
        self._form = form

    def insert(self, customer: str, *, owner: int = 7, **values: Any) -> Any:
        """Begin a conversation, with the columns that the application gives; return its id."""
        given = {
            "owner_id": owner_of(self._form, owner),
            "from_number": customer,
            "to_number": BUSINESS,
            **self._new_id(),
            **values,
        }
        query = f"""INSERT INTO conversations ({", ".join(given)})
            VALUES ({", ".join(["%s"] * len(given))}) RETURNING conv_id"""
        conv_id = self._connection.execute(query.encode(), list(given.values())).fetchall()[0][0]
        if self._form.messages:
            self._connection.execute("INSERT INTO messages (conv_id, body) VALUES (%s, 'hello')", [conv_id])
        return conv_id

    def set(self, conv_id: Any, assignments: str) -> int:
        """Update a conversation by its id, and return how many rows the database says that were."""
        query = f"UPDATE conversations SET {assignments} WHERE conv_id = %s"
        return self._connection.execute(query.encode(), [conv_id]).rowcount

    def status(self, conv_id: Any) -> Any:
        """Return a conversation's status."""
        return self.value(conv_id, "status")

    def value(self, conv_id: Any, column: str) -> Any:
        """Return what one column of a conversation holds."""
        query = f"SELECT {column} FROM conversations WHERE conv_id = %s"
        return self._connection.execute(query.encode(), [conv_id]).fetchall()[0][0]

    def plan_of_find_active(self, conv_id: Any) -> str:
        """Return the plan of its search for the active conversation of a session key."""
        key, owner = (self.value(conv_id, name) for name in ("session_key", "owner_id"))
        query = """EXPLAIN SELECT * FROM conversations
            WHERE owner_id = %s AND session_key = %s AND status IN ('pending', 'progress')
            ORDER BY started_at DESC LIMIT 1"""
        with psycopg.ClientCursor(self._connection) as cursor:
            return "\n".join(line for (line,) in cursor.execute(query, [owner, key]))

    def _new_id(self) -> dict[str, Any]:
        if self._form.conv_id == "bigint":
            return {}
        if self._form.conv_id == "uuid":
            return {"conv_id": uuid.uuid4()}
        return {"conv_id": f"01JR{uuid.uuid4().int % 16**22:022X}"}


def write_dirty_rows(connection: psycopg.Connection[Any], form: Form) -> None:
    """Write what years of use leave behind; the column `phone_number` says what each row is."""
    application = LegacyApplication(connection, form)

    def add(what: str, customer: str, **values: Any) -> None:
        begun = {"started_at": ago(1), "updated_at": ago(0.1), "expires_at": ago(-20), "status": "progress"}
        application.insert(customer, **{"phone_number": what, **begun, **values})

    number = "+5521987654321"
    add("one pair, oldest", number, started_at=ago(5))
    add("one pair, answer", BUSINESS, to_number=f"whatsapp:{number}", started_at=ago(4))
    add("one pair, without the ninth digit", "552187654321", started_at=ago(3), channel=" WhatsApp")
    add("one pair, newest", "whatsapp:+55 (21) 98765-4321", started_at=ago(2), channel=None)
    add("the pair of another owner", number, owner=8)
    add("the pair on another channel", f"tel:{number}", channel="sms")
    add("no status", "+5521900000001", status=None)
    add("no times", "+5521900000002", started_at=None, updated_at=None, expires_at=NEVER)
    add("no updated_at", "+5521900000003", updated_at=None)
    add("expires never", "+5521900000004", expires_at=NEVER)
    add("expires in infinity", "+5521900000005", expires_at="infinity")
    add("no customer", "")
    add("blanks", " \t ", owner=9)
    add("talks to itself", BUSINESS)
    add("a line break", "+552190000\n0006")
    add("very long", "9" * 400)
    add("another script", "‎+५५२१९००००००७")
    add("no number", "ana:maria::7%")
    add("closed without an end", "+5521900000008", status="user_closed")
    add("paused with an end", "+5521900000009", status="idle_timeout", ended_at=ago(0.5))
    for status in form.extra_statuses:
        add("expired, in a status of the application's", "+5521900000010", status=status, expires_at=ago(1))

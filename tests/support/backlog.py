"""Conversations that have a past, written beside lapse, so that no test has to wait for a deadline."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils import compat

from lapse import Database
from lapse.store.operations import purge
from tests.support.sql import own_tables, transaction

BUSINESS = "+14155238886"
IDLE_TIMEOUT = timedelta(minutes=30)
EXPIRATION = timedelta(days=1)


def customer(number: int) -> str:
    """Return the address of a customer, in the spelling that lapse stores."""
    return f"+1212{number:07}"


def customer_of(session_key: str) -> str:
    """Return the customer's address of a session key."""
    (address,) = set(session_key.split("::")) - {BUSINESS}
    return address


def present(database: Database) -> datetime:
    """Return the present moment by the clock of the database."""
    return database.run(purge.now)


def insert_conversations(
    database: Database,
    numbers: range,
    *,
    silent_for: timedelta = timedelta(0),
    expires_in: timedelta = EXPIRATION,
    step: timedelta = timedelta(microseconds=1),
    status: str = "pending",
    idle_timeout: timedelta = IDLE_TIMEOUT,
) -> list[UUID]:
    """Open conversations of these customers with BUSINESS, and return their ids.

    They were begun, and last heard of, `silent_for` ago. Each one's deadlines are a `step` later than those of the one
    before it.
    """
    now = present(database)
    rows: list[dict[str, Any]] = []
    for place, number in enumerate(numbers):
        began = now - silent_for + place * step
        rows.append(
            {
                "owner_id": 1,
                "conv_id": compat.uuid7(),
                "channel": "sms",
                "session_key": "::".join(sorted([customer(number), BUSINESS])),
                "from_number": customer(number),
                "to_number": BUSINESS,
                "status": status,
                "started_at": began,
                "updated_at": began,
                "last_inbound_at": began,
                "expires_at": now + expires_in + place * step,
                "idle_check_at": began + idle_timeout,
                "idle_timeout_seconds": round(idle_timeout.total_seconds()),
            }
        )
    with transaction(database) as connection:
        connection.execute(own_tables(database).conversations.insert(), rows)
    return [row["conv_id"] for row in rows]

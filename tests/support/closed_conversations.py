"""Conversations that have ended, with the event of their end, written beside lapse."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from uuid_utils import compat

from lapse import Database
from lapse.lifecycle import EVENT_TYPES, ConversationStatus
from tests.support.backlog import BUSINESS, EXPIRATION, IDLE_TIMEOUT, customer, present
from tests.support.sql import own_tables, transaction

LIFE = timedelta(hours=1)


def insert_closed(
    database: Database,
    numbers: range,
    *,
    ended_ago: timedelta,
    step: timedelta = timedelta(microseconds=1),
    status: str = "user_closed",
    owner_id: int = 1,
) -> list[UUID]:
    """End conversations of these customers with BUSINESS, the first of them `ended_ago`, and return their ids.

    Each one ended a `step` later than the one before it.
    """
    now = present(database)
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for place, number in enumerate(numbers):
        ended = now - ended_ago + place * step
        began = ended - LIFE
        key = {"owner_id": owner_id, "conv_id": compat.uuid7()}
        rows.append(
            {
                **key,
                "channel": "sms",
                "session_key": "::".join(sorted([customer(number), BUSINESS])),
                "from_number": customer(number),
                "to_number": BUSINESS,
                "status": status,
                "version": 1,
                "started_at": began,
                "updated_at": began,
                "ended_at": ended,
                "expires_at": began + EXPIRATION,
                "idle_check_at": began + IDLE_TIMEOUT,
                "idle_timeout_seconds": round(IDLE_TIMEOUT.total_seconds()),
            }
        )
        events.append(
            {
                **key,
                "version": 1,
                "type": EVENT_TYPES[ConversationStatus(status)].value,
                "from_status": "pending",
                "to_status": status,
                "occurred_at": ended,
            }
        )
    tables = own_tables(database)
    with transaction(database) as connection:
        connection.execute(tables.conversations.insert(), rows)
        connection.execute(tables.events.insert(), events)
    return [row["conv_id"] for row in rows]

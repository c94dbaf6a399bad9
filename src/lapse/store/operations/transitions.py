"""One conversation's transitions, inside a transaction that holds its row: row and event together, never one alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lapse.addresses import masked, shown
from lapse.errors import InvalidTransitionError
from lapse.lifecycle import ConversationStatus, check_transition, event_type, is_due
from lapse.store.operations.steps import Query, Steps
from lapse.store.statements import Row, Statements
from lapse.store.statements import conversations as statements


def primary_key(row: Row) -> dict[str, Any]:
    """Return the parameters that find this very row."""
    return {"of_owner_id": row.owner_id, "of_conv_id": row.conv_id}


def has_expired(row: Row, now: datetime) -> bool:
    """Tell whether the row's expiry has passed; without one (in an adopted table) it never does."""
    return row.expires_at is not None and is_due(row.expires_at, now)


def make_transition(
    sql: Statements,
    row: Row,
    to_status: ConversationStatus,
    *,
    at: datetime,
    reason: str | None,
    actor: str | None,
    deadline: datetime | None = None,
) -> Steps[Row]:
    """Move the locked row to `to_status`, insert the event, and return the new row.

    Raises:
        InvalidTransitionError: the table of transitions does not have it; nothing was changed.
    """
    from_status = _known_status(row, to_status)
    check_transition(from_status, to_status)
    is_closed = to_status in ConversationStatus.closed_statuses()
    values = {
        "from_version": row.version,
        "new_status": to_status.value,
        "new_ended_at": at if is_closed else None,
    }
    moved = (yield Query(sql(statements.transition), primary_key(row) | values)).one()
    event = {
        "owner_id": row.owner_id,
        "conv_id": row.conv_id,
        "version": moved.version,
        "type": event_type(from_status, to_status).value,
        "from_status": from_status.value,
        "to_status": to_status.value,
        "reason": reason,
        "actor": actor,
        "deadline": deadline,
        "occurred_at": at,
        "data": {},
    }
    yield Query(sql(statements.insert_event), event)
    return moved


def _known_status(row: Row, to_status: ConversationStatus) -> ConversationStatus:
    try:
        return ConversationStatus(row.status)
    except ValueError:
        raise InvalidTransitionError(
            str(row.status),
            to_status,
            f"conversation {masked(row.conv_id)} has the status {shown(row.status)}, which is the application's own: "
            "lapse leaves it alone",
        ) from None

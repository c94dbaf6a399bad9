"""One conversation's transition, inside a transaction that holds its row: row and event together, never one alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from lapse import effects
from lapse.lifecycle import ConversationStatus, is_due
from lapse.store.operations.steps import Query, Steps
from lapse.store.rows import row_to_conversation
from lapse.store.statements import Row, Statements, batches, recording
from lapse.store.statements import conversations as statements


def primary_key(row: Row) -> dict[str, Any]:
    """Return the parameters that find this very row."""
    return {"of_owner_id": row.owner_id, "of_conv_id": row.conv_id}


def has_expired(row: Row, now: datetime) -> bool:
    """Tell whether the row's expiry has passed; without one (in an adopted table) it never does."""
    return row.expires_at is not None and is_due(row.expires_at, now)


def make_transition(
    sql: Statements, row: Row, to_status: ConversationStatus, *, at: datetime, reason: str | None, actor: str | None
) -> Steps[Row]:
    """Move the locked row to `to_status`, insert the event, and return the new row.

    Raises:
        InvalidTransitionError: the table of transitions does not have it; nothing was changed.
    """
    moved, event = effects.make_transition(row_to_conversation(row), to_status, at=at, reason=reason, actor=actor)
    values = {"from_version": row.version, "new_status": moved.status.value, "new_ended_at": moved.ended_at}
    after = (yield Query(sql(statements.transition), primary_key(row) | values)).one()
    batch = batches.batch(sql.tables, batches.EVENTS, is_single=True)
    yield Query(sql(recording.insert_events, True), batch.values([batches.EVENTS.row_of(event)]))
    return after

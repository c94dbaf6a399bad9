"""Operations on one conversation or one pair: close, extend, look up."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from lapse.addresses import masked
from lapse.errors import (
    ConversationExpiredError,
    ConversationNotFoundError,
    InvalidInputError,
    InvalidTransitionError,
)
from lapse.lifecycle import ConversationStatus
from lapse.models import AnyId, Conversation, ConversationEvent
from lapse.store.operations.steps import CLOCK, Query, Steps, Transaction
from lapse.store.operations.transitions import has_expired, make_transition, primary_key
from lapse.store.rows import add_clamped, row_to_conversation, row_to_event
from lapse.store.statements import Row, Statements
from lapse.store.statements import conversations as statements


def close(
    sql: Statements,
    conv_id: AnyId,
    owner_id: AnyId | None,
    status: ConversationStatus,
    reason: str | None,
    actor: str | None,
) -> Steps[Conversation]:
    """End a conversation with this status.

    Raises:
        ConversationNotFoundError: there is none.
        InvalidTransitionError: it is closed already; nothing was changed.
    """
    attempts = 0

    def work() -> Steps[Row]:
        nonlocal attempts
        attempts += 1
        row = yield from _lock_by_id(sql, conv_id, owner_id)
        now = yield CLOCK
        try:
            return (yield from make_transition(sql, row, status, at=now, reason=reason, actor=actor))
        except InvalidTransitionError:
            # A repeat after a lost COMMIT: the end that is there is the one asked for.
            if attempts > 1 and row.status == status:
                events = yield Query(sql(statements.events_of_conversation), primary_key(row))
                if events and (events[-1].reason, events[-1].actor) == (reason, actor):
                    return row
            raise

    return row_to_conversation((yield Transaction(work)))


def extend(
    sql: Statements, conv_id: AnyId, owner_id: AnyId | None, minutes: float | None, until: datetime | None
) -> Steps[Conversation]:
    """Move `expires_at` by minutes, or to `until`.

    Raises:
        ConversationNotFoundError: there is none.
        InvalidTransitionError: it is closed.
        InvalidInputError: it expires later than `until` already.
        ConversationExpiredError: its expiry has passed.
    """
    target: datetime | None = until  # computed once: a repeat after a lost COMMIT must not add the minutes again

    def work() -> Steps[Row]:
        nonlocal target
        row = yield from _lock_by_id(sql, conv_id, owner_id)
        if row.status not in ConversationStatus.open_statuses():
            raise InvalidTransitionError(
                row.status,
                row.status,
                f"conversation {masked(conv_id)} is not open, but {masked(row.status)}: it cannot be extended",
            )
        now = yield CLOCK
        if has_expired(row, now):
            raise ConversationExpiredError(
                f"conversation {masked(conv_id)} expired at {row.expires_at.isoformat()}: "
                "a later message opens a new one"
            )
        expires_at = row.expires_at or now  # none in an adopted table: one begins here
        if until is not None and until < expires_at:
            raise InvalidInputError(f"conversation {masked(conv_id)} expires later than that already: {expires_at}")
        target = target or add_clamped(expires_at, timedelta(minutes=minutes or 0))
        values = {"new_expires_at": max(target, expires_at)}
        return (yield Query(sql(statements.set_expiry), primary_key(row) | values)).one()

    return row_to_conversation((yield Transaction(work)))


def _lock_by_id(sql: Statements, conv_id: AnyId, owner_id: AnyId | None) -> Steps[Row]:
    if owner_id is None:
        # Read first, locked then by its whole key: a lock over all nodes of a distributed table does not exist.
        row = (yield Query(sql(statements.by_id), {"of_conv_id": conv_id})).one_or_none()
        owner_id = row.owner_id if row else None
    key = {"of_conv_id": conv_id, "of_owner_id": owner_id}
    locked = (yield Query(sql(statements.lock_by_id), key)).one_or_none()
    if locked is None:
        raise ConversationNotFoundError(f"there is no conversation {masked(conv_id)}")
    return locked


# --- look-ups --------------------------------------------------------------------------------------------------------


def get_by_id(sql: Statements, conv_id: AnyId, owner_id: AnyId | None = None) -> Steps[Conversation | None]:
    """Return the conversation or None; with `owner_id` a distributed database asks one node only."""
    statement = statements.by_id if owner_id is None else statements.by_owner_and_id
    rows = yield Query(sql(statement), {"of_conv_id": conv_id, "of_owner_id": owner_id})
    return row_to_conversation(rows[0]) if rows else None


def get_active(sql: Statements, owner_id: AnyId, limit: int) -> Steps[list[Conversation]]:
    """Return an owner's active conversations, the latest activity first."""
    return (yield from find(Query(sql(statements.active_of_owner), {"of_owner_id": owner_id, "limit": limit})))


def get_history(
    sql: Statements, owner_id: AnyId, channel: str, session_key: str, limit: int
) -> Steps[list[Conversation]]:
    """Return all conversations of a pair, the latest first."""
    values = {"of_owner_id": owner_id, "of_channel": channel, "of_session_key": session_key, "limit": limit}
    return (yield from find(Query(sql(statements.history_of_pair), values)))


def get_events(sql: Statements, conv_id: AnyId, owner_id: AnyId | None) -> Steps[list[ConversationEvent] | None]:
    """Return a conversation's transitions, the first one first; None where there is no such conversation."""
    conversation = yield from get_by_id(sql, conv_id, owner_id)
    if conversation is None:
        return None
    key = {"of_conv_id": conversation.conv_id, "of_owner_id": conversation.owner_id}
    rows = yield Query(sql(statements.events_of_conversation), key)
    return [row_to_event(row) for row in rows]


def find(query: Query) -> Steps[list[Conversation]]:
    """Return the conversations that a query selects."""
    rows: Any = yield query
    return [row_to_conversation(row) for row in rows]


def is_empty(sql: Statements) -> Steps[bool]:
    """Return whether the database has no conversations."""
    return not (yield Query(sql(statements.any_conversation)))

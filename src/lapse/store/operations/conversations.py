"""Operations on one conversation or one pair: close, extend, update, look up.

Ids are checked here: only a database knows of which type they are in it. In addition to the errors that its docstring
names, each operation raises `InvalidInputError` for one that is not.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from lapse.addresses import masked
from lapse.errors import (
    ConversationChangedError,
    ConversationExpiredError,
    ConversationNotFoundError,
    DatabaseError,
    InvalidInputError,
    InvalidTransitionError,
)
from lapse.lifecycle import ConversationStatus
from lapse.models import AnyId, Conversation, ConversationEvent, UnreadableJson, add_clamped
from lapse.store.operations.steps import CLOCK, Query, Steps, Transaction
from lapse.store.operations.transitions import has_expired, make_transition, primary_key
from lapse.store.rows import row_to_conversation, row_to_event
from lapse.store.statements import Row, Statements
from lapse.store.statements import conversations as statements
from lapse.validation import check_id


def close(
    sql: Statements,
    conv_id: AnyId,
    owner_id: AnyId | None,
    status: ConversationStatus,
    reason: str | None,
    actor: str | None,
    if_updated_at: datetime | None,
) -> Steps[Conversation]:
    """End a conversation with this status.

    Raises:
        ConversationNotFoundError: there is none.
        InvalidTransitionError: it is closed already; nothing was changed.
        ConversationChangedError: its latest activity is later than `if_updated_at`; nothing was changed.
    """
    conv_id, owner_id = _checked_key(sql, conv_id, owner_id)
    attempts = 0

    def work() -> Steps[Row]:
        nonlocal attempts
        attempts += 1
        row = yield from _lock_by_id(sql, conv_id, owner_id)
        now = yield CLOCK
        # What is closed has no activity any more: that it is closed is the news.
        if if_updated_at is not None and row.status in ConversationStatus.open_statuses():
            _check_unchanged(row, if_updated_at)
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
    conv_id, owner_id = _checked_key(sql, conv_id, owner_id)
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


def update(
    sql: Statements,
    conv_id: AnyId,
    owner_id: AnyId | None,
    user_id: AnyId | None,
    context: dict[str, Any],
    metadata: dict[str, Any],
) -> Steps[Conversation]:
    """Set the user's id, unless it is None, and merge two JSON objects into the conversation's; return it.

    Raises:
        ConversationNotFoundError: there is none.
        DatabaseError: what the database holds is no JSON object that something could be merged into.
    """
    conv_id, owner_id = _checked_key(sql, conv_id, owner_id)
    changes = {name: change for name, change in (("context", context), ("metadata", metadata)) if change}
    values: dict[str, Any] = {} if user_id is None else {"new_user_id": _checked_id(sql, "user_id", user_id)}
    fields = (*(["user_id"] if values else []), *changes)
    if not fields:
        return (yield from get(sql, conv_id, owner_id))
    if sql.shape.dialect == "sqlite":

        def work() -> Steps[Row]:
            row = yield from _lock_by_id(sql, conv_id, owner_id)
            merged = {f"new_{name}": _merged(name, getattr(row, name), change) for name, change in changes.items()}
            return (yield Query(sql(statements.update, fields), primary_key(row) | values | merged)).one()

        return row_to_conversation((yield Transaction(work)))
    for name, change in changes.items():
        values[f"new_{name}"] = {key: value for key, value in change.items() if value is not None}
        values[f"without_{name}"] = [key for key, value in change.items() if value is None]
    key = {"of_conv_id": conv_id, "of_owner_id": (yield from _owner_of(sql, conv_id, owner_id))}
    row = (yield Query(sql(statements.update, fields), key | values)).one_or_none()
    if row is None:
        yield from get(sql, conv_id, owner_id)  # raises, where it is not there
        raise DatabaseError(f"the database holds something in column {' or '.join(changes)} that is no JSON object")
    return row_to_conversation(row)


def _merged(name: str, present: Any, change: dict[str, Any]) -> dict[str, Any]:
    if isinstance(present, UnreadableJson) or not isinstance(present, dict):
        raise DatabaseError(f"the database holds something in column {name} that is no JSON object")
    return {key: value for key, value in (present | change).items() if value is not None or key not in change}


def _check_unchanged(row: Row, if_updated_at: datetime) -> None:
    updated_at = row_to_conversation(row).updated_at  # as its reader has seen it, where the row has none
    if updated_at > if_updated_at:
        raise ConversationChangedError(
            f"conversation {masked(row.conv_id)} had activity at {updated_at.isoformat()}: read it again"
        )


def _checked_id(sql: Statements, name: str, value: AnyId) -> AnyId:
    return check_id(sql.shape.mapping.kinds[name], name, value)


def _checked_key(sql: Statements, conv_id: AnyId, owner_id: AnyId | None) -> tuple[AnyId, AnyId | None]:
    conv_id = _checked_id(sql, "conv_id", conv_id)
    return conv_id, None if owner_id is None else _checked_id(sql, "owner_id", owner_id)


def _lock_by_id(sql: Statements, conv_id: AnyId, owner_id: AnyId | None) -> Steps[Row]:
    # Locked by its whole key: a lock over all nodes of a distributed table does not exist.
    key = {"of_conv_id": conv_id, "of_owner_id": (yield from _owner_of(sql, conv_id, owner_id))}
    locked = (yield Query(sql(statements.lock_by_id), key)).one_or_none()
    if locked is None:
        raise _not_found(conv_id)
    return locked


def _owner_of(sql: Statements, conv_id: AnyId, owner_id: AnyId | None) -> Steps[AnyId | None]:
    """Return the given owner of a conversation, or else look it up; None: there is no such conversation."""
    if owner_id is None:
        row = (yield Query(sql(statements.by_id), {"of_conv_id": conv_id})).one_or_none()
        owner_id = row.owner_id if row else None
    return owner_id


def _not_found(conv_id: AnyId) -> ConversationNotFoundError:
    return ConversationNotFoundError(f"there is no conversation {masked(conv_id)}")


# --- look-ups --------------------------------------------------------------------------------------------------------


def get_by_id(sql: Statements, conv_id: AnyId, owner_id: AnyId | None = None) -> Steps[Conversation | None]:
    """Return the conversation or None; with `owner_id` a distributed database asks one node only."""
    conv_id, owner_id = _checked_key(sql, conv_id, owner_id)
    statement = statements.by_id if owner_id is None else statements.by_owner_and_id
    rows = yield Query(sql(statement), {"of_conv_id": conv_id, "of_owner_id": owner_id})
    return row_to_conversation(rows[0]) if rows else None


def get(sql: Statements, conv_id: AnyId, owner_id: AnyId | None) -> Steps[Conversation]:
    """Return the conversation.

    Raises:
        ConversationNotFoundError: there is none.
        DatabaseError: its context or metadata cannot be read.
    """
    conversation = yield from get_by_id(sql, conv_id, owner_id)
    if conversation is None:
        raise _not_found(conv_id)
    for name in ("context", "metadata"):
        if isinstance(value := getattr(conversation, name), UnreadableJson):
            raise DatabaseError(
                f"the database holds something in column {name} that lapse cannot read: it {value.reason}"
            )
    return conversation


def get_events(sql: Statements, conv_id: AnyId, owner_id: AnyId | None) -> Steps[list[ConversationEvent]]:
    """Return a conversation's transitions, the first one first.

    Raises:
        ConversationNotFoundError: there is no such conversation.
    """
    conversation = yield from get_by_id(sql, conv_id, owner_id)
    if conversation is None:
        raise _not_found(conv_id)
    key = {"of_conv_id": conversation.conv_id, "of_owner_id": conversation.owner_id}
    rows = yield Query(sql(statements.events_of_conversation), key)
    return [row_to_event(row) for row in rows]


def get_active(sql: Statements, owner_id: AnyId, limit: int) -> Steps[list[Conversation]]:
    """Return an owner's active conversations that are not past their expiry, the latest activity first."""
    owner_id = _checked_id(sql, "owner_id", owner_id)
    return (yield from find(Query(sql(statements.active_of_owner), {"of_owner_id": owner_id, "limit": limit})))


def get_history(
    sql: Statements, owner_id: AnyId, channel: str, session_key: str, limit: int
) -> Steps[list[Conversation]]:
    """Return all conversations of a pair, the latest first."""
    owner_id = _checked_id(sql, "owner_id", owner_id)
    values = {"of_owner_id": owner_id, "of_channel": channel, "of_session_key": session_key, "limit": limit}
    return (yield from find(Query(sql(statements.history_of_pair), values)))


def find(query: Query) -> Steps[list[Conversation]]:
    """Return the conversations that a query selects."""
    rows: Any = yield query
    return [row_to_conversation(row) for row in rows]


def is_empty(sql: Statements) -> Steps[bool]:
    """Return whether the database has no conversations."""
    return not (yield Query(sql(statements.any_conversation)))

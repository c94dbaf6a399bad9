"""One conversation's transitions, inside a transaction that holds its row: the row and its event, never one alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lapse.addresses import masked, shown
from lapse.errors import ConversationNotFoundError, DatabaseUnavailableError, InvalidTransitionError
from lapse.lifecycle import (
    ConversationStatus,
    Sender,
    check_transition,
    event_type,
    initial_status,
    is_due,
    status_after_message,
)
from lapse.models import AnyId
from lapse.store import statements
from lapse.store.connection import Connection, Row
from lapse.store.database import Database

MAX_ATTEMPTS = 20
"""How often a pair's conversation may begin and end between two looks before somebody else is to blame."""


@dataclass(slots=True, kw_only=True)
class NewConversation:
    """A conversation that a message (or a caller) would open; durations in seconds."""

    owner_id: AnyId
    channel: str
    session_key: str
    from_number: str
    to_number: str
    sender: Sender
    expiration_seconds: int
    idle_timeout_seconds: int
    user_id: AnyId | None = None
    context: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    conv_id: AnyId | None = None
    """Given before it is inserted: the repeat of an attempt whose answer was lost must know its own."""

    @property
    def pair(self) -> dict[str, Any]:
        """Return the parameters that find the open conversation of this pair."""
        return {
            "of_owner_id": self.owner_id,
            "of_channel": self.channel,
            "of_session_key": self.session_key,
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the statements that insert."""
        return {
            "new_owner_id": self.owner_id,
            "new_conv_id": self.conv_id,
            "new_channel": self.channel,
            "new_session_key": self.session_key,
            "new_from_number": self.from_number,
            "new_to_number": self.to_number,
            "new_user_id": self.user_id,
            "new_status": initial_status(self.sender).value,
            "is_inbound": self.sender is Sender.USER,
            "expiration": self.expiration_seconds,
            "idle_timeout": self.idle_timeout_seconds,
            "new_context": self.context,
            "new_metadata": self.metadata,
        }


def key_of(row: Row) -> dict[str, Any]:
    """Return the parameters that find this very row."""
    return {"of_owner_id": row.owner_id, "of_conv_id": row.conv_id}


def make_transition(
    connection: Connection,
    row: Row,
    to_status: ConversationStatus,
    *,
    at: datetime,
    reason: str | None,
    actor: str | None,
    deadline: datetime | None = None,
) -> Row:
    """Move the locked row to `to_status`, write the event, and return the new row.

    Raises:
        InvalidTransitionError: the table of transitions does not have it; nothing was changed.
    """
    from_status = _known_status(row, to_status)
    check_transition(from_status, to_status)
    is_closed = to_status in ConversationStatus.closed_statuses()
    moved = connection.execute(
        statements.TRANSITION,
        key_of(row)
        | {
            "from_version": row.version,
            "new_status": to_status.value,
            "new_ended_at": at if is_closed else None,
        },
    ).one()
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
    connection.execute(statements.INSERT_EVENT, event)
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


def has_expired(row: Row, now: datetime) -> bool:
    """Tell whether the row's expiry has passed; without one (in an adopted table) it never does."""
    return row.expires_at is not None and is_due(row.expires_at, now)


def lock_live(database: Database, connection: Connection, new: NewConversation) -> tuple[Row | None, datetime]:
    """Lock the pair's open conversation and return it with the present moment, read after the lock.

    One that is past its expiry, and not yet swept, is ended as expired: it is not live, and None is returned.
    """
    row = connection.execute(statements.LOCK_OPEN_OF_PAIR, new.pair).one_or_none()
    now = database.read_clock(connection)
    if row is None or not has_expired(row, now):
        return row, now
    make_transition(
        connection,
        row,
        ConversationStatus.EXPIRED,
        at=now,
        reason=ConversationStatus.EXPIRED.value,
        actor=new.sender.value,
        deadline=row.expires_at,
    )
    return None, now


def apply_message(connection: Connection, row: Row, new: NewConversation, now: datetime) -> Row:
    """Note the message as activity of the locked row, and make the transition that it means, if any."""
    status = ConversationStatus(row.status)
    after = status_after_message(status, new.sender)
    if after is not status:
        make_transition(connection, row, after, at=now, reason="message", actor=new.sender.value)
    if status in ConversationStatus.paused_statuses():
        connection.execute(statements.REARM, key_of(row) | {"now": now, "idle_timeout": new.idle_timeout_seconds})
    activity = {"now": now, "is_inbound": new.sender is Sender.USER}
    return connection.execute(statements.NOTE_ACTIVITY, key_of(row) | activity).one()


def lock_by_id(connection: Connection, conv_id: AnyId, owner_id: AnyId | None) -> Row:
    """Lock a conversation and return it.

    Raises:
        ConversationNotFoundError: there is none.
    """
    key = {"of_conv_id": conv_id, "of_owner_id": owner_id}
    if owner_id is None:
        # Found first, locked then by its whole key: a lock over all nodes of a distributed table does not exist.
        row = connection.execute(statements.BY_ID, key).one_or_none()
        key["of_owner_id"] = row.owner_id if row else None
    locked = connection.execute(statements.LOCK_BY_ID, key).one_or_none()
    if locked is None:
        raise ConversationNotFoundError(f"there is no conversation {masked(conv_id)}")
    return locked


def last_event_is(connection: Connection, row: Row, reason: str | None, actor: str | None) -> bool:
    """Tell whether the row's latest transition was made for this reason by this actor."""
    recorded = connection.execute(statements.EVENTS_OF_CONVERSATION, key_of(row))
    return bool(recorded) and (recorded[-1].reason, recorded[-1].actor) == (reason, actor)


def until_found(look: Callable[[], Row | None]) -> Row:
    """Return the first row that `look` finds.

    A look finds nothing only when the pair's conversation began or ended meanwhile, and then the next one does.

    Raises:
        DatabaseUnavailableError: that went on for too long.
    """
    for _ in range(MAX_ATTEMPTS):
        row = look()
        if row is not None:
            return row
    raise DatabaseUnavailableError("the conversation of this pair kept changing; try again")

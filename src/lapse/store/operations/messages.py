"""Operations that record a message, which opens, continues, answers or reactivates a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from lapse.addresses import AddressPair
from lapse.errors import ConversationRefusedError, DatabaseUnavailableError
from lapse.json_objects import check_json_object
from lapse.lifecycle import ConversationStatus, Sender, initial_status, parse_sender, status_after_message
from lapse.messages import Message
from lapse.models import AnyId, Conversation
from lapse.store.operations.id_generation import new_conv_id
from lapse.store.operations.steps import CLOCK, Query, Steps, Transaction
from lapse.store.operations.transitions import has_expired, make_transition, primary_key
from lapse.store.rows import row_to_conversation
from lapse.store.statements import Row, Statements
from lapse.store.statements import conversations as statements
from lapse.store.table_mapping import IdKind
from lapse.validation import check_id

MAX_ATTEMPTS = 20
"""How many times a pair's conversation may change between two statements before the call gives up."""


class NewConversation(NamedTuple):
    """A conversation that a message (or a caller) would open; durations in seconds."""

    owner_id: AnyId
    pair: AddressPair
    sender: Sender
    expiration_seconds: int
    idle_timeout_seconds: int
    user_id: AnyId | None
    context: dict[str, Any]
    metadata: dict[str, Any]

    @classmethod
    def of(
        cls,
        message: Message,
        pair: AddressPair,
        kinds: Mapping[str, IdKind],
        expiration_seconds: int,
        idle_timeout_seconds: int,
    ) -> NewConversation:
        """Return what a message between these addresses would open, in a database with ids of these kinds.

        Raises:
            InvalidInputError: a field of the message is not usable.
        """
        user_id = message.user_id
        return cls(
            check_id(kinds["owner_id"], "owner_id", message.owner_id),
            pair,
            parse_sender(message.sender),
            expiration_seconds,
            idle_timeout_seconds,
            None if user_id is None else check_id(kinds["user_id"], "user_id", user_id),
            check_json_object("context", message.context),
            check_json_object("metadata", message.metadata),
        )

    @property
    def key(self) -> dict[str, Any]:
        """Return the parameters that find the open conversation of this pair."""
        return {
            "of_owner_id": self.owner_id,
            "of_channel": self.pair.channel,
            "of_session_key": self.pair.session_key,
        }

    def values(self, conv_id: AnyId) -> dict[str, Any]:
        """Return the parameters of the statements that insert it with this id."""
        return {
            "new_owner_id": self.owner_id,
            "new_conv_id": conv_id,
            "new_channel": self.pair.channel,
            "new_session_key": self.pair.session_key,
            "new_from_number": self.pair.from_number,
            "new_to_number": self.pair.to_number,
            "new_user_id": self.user_id,
            "new_status": initial_status(self.sender).value,
            "is_inbound": self.sender is Sender.USER,
            "expiration": self.expiration_seconds,
            "idle_timeout": self.idle_timeout_seconds,
            "new_context": self.context,
            "new_metadata": self.metadata,
        }


class OpenPairs(set[tuple[AnyId, str, str]]):
    """Pairs that had an open conversation when this process last saw them: decides which statement is tried first."""

    MOST = 100_000
    """Some 20 MB."""

    def add(self, pair: tuple[AnyId, str, str]) -> None:
        """Remember a pair; when there are too many, all others are forgotten."""
        if len(self) >= self.MOST:
            self.clear()
        super().add(pair)


# --- messages -------------------------------------------------------------------------------------------------------


def record_message(sql: Statements, new: NewConversation, is_known: bool) -> Steps[Conversation]:
    """Record a message: one statement where it means no transition, else a transaction with the transition.

    Args:
        sql: the statements.
        new: what the message would open.
        is_known: the pair had an open conversation a moment ago: a guess at which statement to try first.

    Raises:
        ConversationRefusedError: the database refused.
        DatabaseUnavailableError: the pair's conversation kept beginning and ending.
    """
    if is_known and not sql.shape.is_distributed:  # Citus takes `now()` in an INSERT only
        rows = yield Query(sql(statements.record_activity, new.sender), new.key)
        if rows:
            return row_to_conversation(rows[0])
    # The id is given before the row is inserted: the repeat of an attempt whose answer was lost must know its own.
    conv_id = yield from new_conv_id(sql)
    values = new.values(conv_id)

    def attempt() -> Steps[Row]:
        rows = yield Query(sql(statements.record_message, new.sender), values)
        return rows[0] if rows else (yield from _record_transition(sql, new, values))

    row = yield from _open_once(sql, new.owner_id, lambda: conv_id, attempt)
    return row_to_conversation(row)


def _record_transition(sql: Statements, new: NewConversation, values: dict[str, Any]) -> Steps[Row]:
    def work() -> Steps[Row | None]:
        live, now = yield from lock_open_conversation(sql, new)
        if live is not None:
            return (yield from _apply_message(sql, live, new, now))
        # Another message may open one first: then this one is activity of that, or tries again.
        rows = yield Query(sql(statements.record_message, new.sender, True), values | {"now": now})
        return rows.one_or_none()

    return (yield from retry_until_found(work))


def open_conversation(sql: Statements, new: NewConversation) -> Steps[tuple[Conversation, bool]]:
    """Return the pair's live conversation, and whether it is the new one; errors as `record_message`."""
    conv_id: AnyId | None = None

    def work() -> Steps[Row | None]:
        nonlocal conv_id
        live, now = yield from lock_open_conversation(sql, new)
        if live is not None:
            return live
        if conv_id is None:
            conv_id = yield from new_conv_id(sql)
        rows = yield Query(sql(statements.insert_unless_open), new.values(conv_id) | {"now": now})
        return rows.one_or_none()

    row = yield from _open_once(sql, new.owner_id, lambda: conv_id, lambda: retry_until_found(work))
    # By its id, so that a repeat after a lost COMMIT still knows its own.
    return row_to_conversation(row), row.conv_id == conv_id


def _open_once(
    sql: Statements, owner_id: AnyId, own_id: Callable[[], AnyId | None], attempt: Callable[[], Steps[Row]]
) -> Steps[Row]:
    """Return what `attempt` finds or opens, or what it had opened before its answer was lost and has ended since.

    Raises:
        ConversationRefusedError: the database refused for another reason.
    """
    try:
        return (yield from attempt())
    except ConversationRefusedError:
        conv_id = own_id()
        if conv_id is not None:
            # The id is this call's own: whatever has it was opened by an earlier attempt.
            rows = yield Query(sql(statements.by_owner_and_id), {"of_conv_id": conv_id, "of_owner_id": owner_id})
            if rows:
                return rows[0]
        if not sql.shape.mapping.is_adopted:
            raise
    # Perhaps by a unique index of the application's, which ON CONFLICT does not go by: its row can be seen by now.
    return (yield from attempt())


def retry_until_found(work: Callable[[], Steps[Row | None]]) -> Steps[Row]:
    """Return the first row that a transaction finds.

    It finds none only when the pair's conversation began or ended meanwhile, and then the next one does.

    Raises:
        DatabaseUnavailableError: that went on for too long.
    """
    for _ in range(MAX_ATTEMPTS):
        row = yield Transaction(work)
        if row is not None:
            return row
    raise DatabaseUnavailableError("the conversation of this pair kept changing; try again")


# --- inside a transaction that holds the conversation's row -----------------------------------------------------------


def lock_open_conversation(sql: Statements, new: NewConversation) -> Steps[tuple[Row | None, datetime]]:
    """Lock the pair's open conversation and return it with the present moment, read after the lock.

    One that is past its expiry, and not yet swept, is ended as expired: it is not live, and None is returned.
    """
    row = (yield Query(sql(statements.lock_open_of_pair), new.key)).one_or_none()
    now = yield CLOCK
    if row is None or not has_expired(row, now):
        return row, now
    yield from make_transition(
        sql,
        row,
        ConversationStatus.EXPIRED,
        at=now,
        reason=ConversationStatus.EXPIRED.value,
        actor=new.sender.value,
        deadline=row.expires_at,
    )
    return None, now


def _apply_message(sql: Statements, row: Row, new: NewConversation, now: datetime) -> Steps[Row]:
    """Record the message as activity of the locked row, and make the transition that it means, if any."""
    status = ConversationStatus(row.status)
    after = status_after_message(status, new.sender)
    if after is not status:
        yield from make_transition(sql, row, after, at=now, reason="message", actor=new.sender.value)
    if status in ConversationStatus.paused_statuses():
        values = {"now": now, "idle_timeout": new.idle_timeout_seconds}
        yield Query(sql(statements.rearm), primary_key(row) | values)
    activity = {"now": now, "is_inbound": new.sender is Sender.USER}
    return (yield Query(sql(statements.record_activity_by_id), primary_key(row) | activity)).one()

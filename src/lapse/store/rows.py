"""Rows as the frozen values that lapse hands out."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from lapse.addresses import WHATSAPP
from lapse.lifecycle import ConversationStatus, EventType, Sender
from lapse.messages import MessageResult, Outcome
from lapse.models import NEVER, Conversation, ConversationEvent, conversation_of
from lapse.store.statements import LazyRows, Row
from lapse.store.tables import OWN_TABLES

_COLUMNS = tuple(field.name for field in fields(Conversation))
_STATUS, _OPENED_BY = _COLUMNS.index("status"), _COLUMNS.index("opened_by")
_STATUSES = {status.value: status for status in ConversationStatus}
_SENDERS = {sender.value: sender for sender in Sender}
LONG_AGO = datetime.fromtimestamp(0, UTC)
_EVENT_COLUMNS = tuple(OWN_TABLES.events.c.keys())


def row_to_conversation(row: Row) -> Conversation:
    """Return a row that ends with the columns of a conversation as a value."""
    values: list[Any] = list(row[-len(_COLUMNS) :])
    values[_STATUS] = _STATUSES.get(row.status, row.status)
    values[_OPENED_BY] = _SENDERS.get(row.opened_by)
    if (
        row.channel is None
        or row.context is None
        or row.metadata is None
        or row.started_at is None
        or row.updated_at is None
        or row.expires_at is None
    ):
        # What an application left NULL in its own table has the value that the statements take it for.
        instead: dict[str, Any] = {
            "channel": WHATSAPP,
            "context": {},
            "metadata": {},
            "started_at": row.updated_at or LONG_AGO,
            "updated_at": row.started_at or LONG_AGO,
            "expires_at": NEVER,
        }
        pairs = zip(_COLUMNS, values, strict=True)
        values = [instead.get(name) if value is None else value for name, value in pairs]
    return conversation_of(values)


def row_to_event(row: Row) -> ConversationEvent:
    """Return a row that begins with the columns of `conversation_events` as a value."""
    values = dict(zip(_EVENT_COLUMNS, row, strict=False))
    values["type"] = EventType(values["type"])
    values["from_status"] = ConversationStatus(values["from_status"])
    values["to_status"] = ConversationStatus(values["to_status"])
    return ConversationEvent(**values)


class LazyResult(MessageResult):
    """That a message continued a conversation, which is read when somebody asks for it."""

    __slots__ = ("_place", "_read", "_rows")
    _place: int
    _read: Conversation
    _rows: LazyRows
    outcome = Outcome.CONTINUED
    expired_conv_id = None

    def __init__(self, rows: LazyRows, place: int) -> None:
        """Take the row of the conversation."""
        _set_rows(self, rows)
        _set_place(self, place)

    @property
    def conversation(self) -> Conversation:
        """Return the conversation, as it was after the message."""
        try:
            return self._read
        except AttributeError:
            conversation = row_to_conversation(self._rows.row(self._place))
            _set_read(self, conversation)
            return conversation

    def __eq__(self, other: object) -> bool:
        """Compare as values: when the conversation is read is nobody's business."""
        return isinstance(other, MessageResult) and self._values() == (
            other.outcome,
            other.conversation,
            other.expired_conv_id,
        )

    def __hash__(self) -> int:
        """Hash as values."""
        return hash((self.outcome, self.expired_conv_id))

    def __reduce__(self) -> Any:
        """Copy and pickle what was read, without the rows."""
        return MessageResult, self._values()

    def _values(self) -> tuple[Any, ...]:
        return self.outcome, self.conversation, self.expired_conv_id


_set_rows, _set_place, _set_read = (getattr(LazyResult, name).__set__ for name in ("_rows", "_place", "_read"))

"""Rows as the frozen values that lapse hands out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from lapse.addresses import WHATSAPP
from lapse.lifecycle import ConversationStatus, EventType
from lapse.models import NEVER, Conversation, ConversationEvent
from lapse.store.statements import Row
from lapse.store.tables import OWN_TABLES

# How to write each column's field. The frozen class's own way takes four times as long, a tenth of a message on SQLite.
_COLUMNS = tuple(OWN_TABLES.conversations.c.keys())
_WRITERS = tuple(getattr(Conversation, column).__set__ for column in _COLUMNS)
_STATUSES = {status.value: status for status in ConversationStatus}
LONG_AGO = datetime.fromtimestamp(0, UTC)
_EVENT_COLUMNS = tuple(OWN_TABLES.events.c.keys())


def row_to_conversation(row: Row) -> Conversation:
    """Return the row of `conversations` as a value."""
    conversation = object.__new__(Conversation)
    for write, value in zip(_WRITERS, row, strict=True):
        write(conversation, value)
    _WRITERS[_COLUMNS.index("status")](conversation, _STATUSES.get(row.status, row.status))
    if None in (row.channel, row.context, row.metadata, row.started_at, row.updated_at, row.expires_at):
        _fill_gaps(conversation, row)
    return conversation


def _fill_gaps(conversation: Conversation, row: Row) -> None:
    """Give what an application left NULL in its own table the value that the statements take it for."""
    instead: dict[str, Any] = {
        "channel": WHATSAPP,
        "context": {},
        "metadata": {},
        "started_at": row.updated_at or LONG_AGO,
        "updated_at": row.started_at or LONG_AGO,
        "expires_at": NEVER,
    }
    for name, value in instead.items():
        if getattr(row, name) is None:
            _WRITERS[_COLUMNS.index(name)](conversation, value)


def row_to_event(row: Row) -> ConversationEvent:
    """Return a row that begins with the columns of `conversation_events` as a value."""
    values = dict(zip(_EVENT_COLUMNS, row, strict=False))
    values["type"] = EventType(values["type"])
    values["from_status"] = ConversationStatus(values["from_status"])
    values["to_status"] = ConversationStatus(values["to_status"])
    return ConversationEvent(**values)


def add_clamped(moment: datetime, duration: timedelta) -> datetime:
    """Return the moment so much later; what an application lets last for ever goes on doing so."""
    try:
        return moment + duration
    except OverflowError:
        return NEVER

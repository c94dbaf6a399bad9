"""Rows as the frozen values that lapse hands out."""

from __future__ import annotations

from lapse.lifecycle import ConversationStatus, EventType
from lapse.models import Conversation, ConversationEvent
from lapse.store.connection import Row
from lapse.store.schema import conversation_events, conversations

# How to write each column's field. The frozen class's own way takes four times as long, a tenth of a message on SQLite.
_COLUMNS = tuple(conversations.c.keys())
_WRITERS = tuple(getattr(Conversation, column).__set__ for column in _COLUMNS)
_STATUSES = {status.value: status for status in ConversationStatus}
_EVENT_COLUMNS = tuple(conversation_events.c.keys())


def conversation_of(row: Row) -> Conversation:
    """Return the row of `conversations` as a value."""
    conversation = object.__new__(Conversation)
    for write, value in zip(_WRITERS, row, strict=True):
        write(conversation, value)
    _WRITERS[_COLUMNS.index("status")](conversation, _STATUSES[row.status])
    return conversation


def event_of(row: Row) -> ConversationEvent:
    """Return a row that begins with the columns of `conversation_events` as a value."""
    values = dict(zip(_EVENT_COLUMNS, row, strict=False))
    values["type"] = EventType(values["type"])
    values["from_status"] = ConversationStatus(values["from_status"])
    values["to_status"] = ConversationStatus(values["to_status"])
    return ConversationEvent(**values)

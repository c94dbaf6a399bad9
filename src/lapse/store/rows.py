"""Rows as the frozen values that lapse hands out."""

from __future__ import annotations

from lapse.lifecycle import ConversationStatus, EventType
from lapse.models import Conversation, ConversationEvent
from lapse.store.connection import Row
from lapse.store.schema import conversation_events, conversations

_CONVERSATION_COLUMNS = tuple(conversations.c.keys())
_EVENT_COLUMNS = tuple(conversation_events.c.keys())


def conversation_of(row: Row) -> Conversation:
    """Return the row of `conversations` as a value."""
    values = dict(zip(_CONVERSATION_COLUMNS, row, strict=True))
    values["status"] = ConversationStatus(values["status"])
    return Conversation(**values)


def event_of(row: Row) -> ConversationEvent:
    """Return a row that begins with the columns of `conversation_events` as a value."""
    values = dict(zip(_EVENT_COLUMNS, row, strict=False))
    values["type"] = EventType(values["type"])
    values["from_status"] = ConversationStatus(values["from_status"])
    values["to_status"] = ConversationStatus(values["to_status"])
    return ConversationEvent(**values)

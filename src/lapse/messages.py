"""A message, from whichever source, and what became of it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypedDict

from lapse.lifecycle import Sender
from lapse.models import AnyId, Conversation


@dataclass(frozen=True, slots=True)
class Message:
    """A message between two addresses, not checked before it is recorded. Personal data stays out of its `repr`."""

    owner_id: AnyId
    """The tenant: of the type that the database has, a whole number, a UUID or text."""
    from_number: str = field(repr=False)
    """The sender's address."""
    to_number: str = field(repr=False)
    """The recipient's address."""
    channel: str | None = None
    """`whatsapp`, `sms`, `webchat`, …; None: as the scheme of an address says (`sms:`, `messenger:`), else WhatsApp."""
    sender: str = Sender.USER
    """Who wrote it: `user` (the customer), `agent`, `support`, `bot` or `system` (a notice)."""
    _: KW_ONLY
    message_id: str | None = None
    """The id that the provider gave it: a copy, with the same owner, channel and id, changes nothing."""
    sent_at: datetime | None = None
    """When it was sent, aware; None: now."""
    opens: bool | None = None
    """Whether it may open a conversation; None: as its sender may."""
    user_id: AnyId | None = field(default=None, repr=False)
    """The application's own id of the user; stored if this message opens a conversation, as are the next two."""
    context: dict[str, Any] | None = field(default=None, repr=False)
    """A JSON object."""
    metadata: dict[str, Any] | None = field(default=None, repr=False)
    """A JSON object."""


class OpeningOptions(TypedDict, total=False):
    """Fields of a `Message` that count where it opens a conversation, as arguments."""

    user_id: AnyId | None
    context: dict[str, Any] | None
    metadata: dict[str, Any] | None


class MessageOptions(OpeningOptions, total=False):
    """The fields of a `Message` that are given by name, as arguments."""

    message_id: str | None
    sent_at: datetime | None
    opens: bool | None


OpeningSender = Literal["user", "agent", "support", "bot", Sender.USER, Sender.AGENT, Sender.SUPPORT, Sender.BOT]
"""Whoever opens a conversation where none is open."""


class Outcome(StrEnum):
    """What became of a message."""

    OPENED = "opened"
    """It opened a conversation."""
    CONTINUED = "continued"
    """It belongs to the pair's open conversation, whose status it left as it was."""
    ANSWERED = "answered"
    """It is the first answer: `pending` became `progress`."""
    REACTIVATED = "reactivated"
    """It brought a paused conversation back."""
    COPY = "copy"
    """A message with this id was recorded before: nothing changed."""
    LATE = "late"
    """It came too late to open or bring back a conversation; the times of the one that it belongs to count it."""
    NOT_OPENED = "not_opened"
    """Nothing was open, and it may not open anything."""


@dataclass(frozen=True, slots=True)
class MessageResult:
    """What became of a message."""

    outcome: Outcome
    conversation: Conversation | None = field(hash=False)
    """The conversation that it belongs to, as it is afterwards; None: there is none."""
    expired_conv_id: AnyId | None = None
    """The conversation that the message found past its expiry, and ended."""

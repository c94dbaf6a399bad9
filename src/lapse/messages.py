"""A message, from whichever source."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any

from lapse.addresses import WHATSAPP
from lapse.lifecycle import Sender
from lapse.models import AnyId


@dataclass(frozen=True, slots=True)
class Message:
    """A message between two addresses, not checked before it is recorded. Personal data stays out of its `repr`."""

    owner_id: AnyId
    """The tenant: a whole number; in an adopted table, of the type that its column has."""
    from_number: str = field(repr=False)
    """The sender's address."""
    to_number: str = field(repr=False)
    """The recipient's address."""
    channel: str = WHATSAPP
    """`whatsapp`, `sms`, `webchat`, …."""
    sender: str = Sender.USER
    """The side that wrote it: `user` (the customer), `agent`, `support` or `system`."""
    _: KW_ONLY
    message_id: str | None = None
    """The id that the provider gave it."""
    sent_at: datetime | None = None
    """When it was sent, aware; None: not known."""
    opens: bool | None = None
    """Whether it may open a conversation; None: as its sender may."""
    user_id: AnyId | None = field(default=None, repr=False)
    """The application's own id of the user; stored if this message opens a conversation, as are the next two."""
    context: dict[str, Any] | None = field(default=None, repr=False)
    """A JSON object."""
    metadata: dict[str, Any] | None = field(default=None, repr=False)
    """A JSON object."""

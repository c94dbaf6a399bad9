"""A message: the first word of the flow, whoever brings it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any

from lapse.addresses import WHATSAPP
from lapse.lifecycle import Sender
from lapse.models import AnyId


@dataclass(frozen=True, slots=True)
class Message:
    """One message between two addresses, as its source gives it: it is checked when it is recorded.

    Personal data stays out of its `repr`.
    """

    owner_id: AnyId
    """The tenant. A whole number, or whatever the application's own table has, where it was adopted."""
    from_number: str = field(repr=False)
    """The address that it comes from."""
    to_number: str = field(repr=False)
    """The address that it goes to."""
    channel: str = WHATSAPP
    """`whatsapp`, `sms`, `webchat`, …."""
    sender: str = Sender.USER
    """The side that wrote it: `user` (the customer), `agent`, `support` or `system`."""
    _: KW_ONLY
    message_id: str | None = None
    """The provider's id of it."""
    sent_at: datetime | None = None
    """When it was sent, where that is known; aware."""
    opens: bool | None = None
    """Whether it may open a conversation; None: as its sender may."""
    user_id: AnyId | None = field(default=None, repr=False)
    """The application's own id, kept when this message opens a conversation."""
    context: dict[str, Any] | None = field(default=None, repr=False)
    """A JSON object, kept when this message opens a conversation."""
    metadata: dict[str, Any] | None = field(default=None, repr=False)
    """A JSON object, kept when this message opens a conversation."""

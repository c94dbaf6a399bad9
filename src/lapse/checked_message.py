"""A message whose fields are usable: what operations take."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from lapse.addresses import AddressPair, address_pair, shown
from lapse.errors import InvalidInputError
from lapse.json_objects import check_json_object
from lapse.lifecycle import SENDER_RULES, Sender, parse_sender, require_utc
from lapse.messages import Message
from lapse.models import AnyId
from lapse.validation import check_id, check_text

PairKey = tuple[AnyId, str, str]
"""Owner, channel and session key: unique among open conversations."""
ReceiptKey = tuple[AnyId, str, str | None]
"""Owner, channel and a message's id: unique among receipts."""


class CheckedMessage(NamedTuple):
    """A message with usable fields, and the durations that a conversation has if it opens one."""

    key: PairKey
    owner_id: AnyId
    pair: AddressPair
    sender: Sender
    opens: bool
    is_activity: bool
    """False: a notice, which changes nothing that is open."""
    message_id: str | None
    sent_at: datetime | None
    """Aware and in UTC; None: now."""
    expiration_seconds: int
    idle_timeout_seconds: int
    user_id: AnyId | None
    context: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def receipt_key(self) -> ReceiptKey:
        """Return the key of its receipt, if it has an id."""
        return self.owner_id, self.pair.channel, self.message_id

    @property
    def is_plain(self) -> bool:
        """Return whether it is activity of now, without an id by which copies are known, and may open."""
        return self.message_id is None and self.sent_at is None and self.opens and self.is_activity


def check_message(
    message: Message, kinds: Mapping[str, str], expiration_seconds: int, idle_timeout_seconds: int
) -> CheckedMessage:
    """Return a message with its addresses normalised.

    Args:
        message: as the caller has it.
        kinds: the types of `owner_id` and `user_id` in the database.
        expiration_seconds: from the start of a conversation that it opens to its expiry.
        idle_timeout_seconds: from its latest activity to its pause.

    Raises:
        InvalidInputError: a field is not usable.
    """
    if not isinstance(message, Message):
        raise InvalidInputError(f"a message must be a lapse.Message, not {type(message).__name__}")
    pair = address_pair(message.from_number, message.to_number, message.channel)
    sender, opens, user_id = parse_sender(message.sender), message.opens, message.user_id
    rule = SENDER_RULES[sender]
    if opens is not None and not isinstance(opens, bool):
        raise InvalidInputError(f"opens must be True, False or None, not {shown(opens)}")
    owner_id = check_id(kinds["owner_id"], "owner_id", message.owner_id)
    return CheckedMessage(
        (owner_id, pair.channel, pair.session_key),
        owner_id,
        pair,
        sender,
        rule.opens if opens is None else opens,
        rule.is_activity,
        None if message.message_id is None else check_message_id(message.message_id),
        None if message.sent_at is None else require_utc(message.sent_at),
        expiration_seconds,
        idle_timeout_seconds,
        None if user_id is None else check_id(kinds["user_id"], "user_id", user_id),
        check_json_object("context", message.context),
        check_json_object("metadata", message.metadata),
    )


def opening(message: CheckedMessage) -> CheckedMessage:
    """Return what opens a conversation where none is open, and leaves an open one as it is."""
    return message._replace(opens=True, is_activity=False)


def check_message_id(message_id: str | None) -> str | None:
    """Check that a message's id is printable text, not empty and not too long; None: there is none."""
    if message_id == "":
        raise InvalidInputError("message_id must not be empty: leave it out where the provider gives none")
    return check_text("message_id", message_id)

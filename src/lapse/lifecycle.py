"""The rules of a conversation's life: statuses, transitions, deadlines. Pure functions: no clock, no database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from lapse.addresses import shown
from lapse.errors import InvalidInputError, InvalidTransitionError, NaiveDatetimeError


class ConversationStatus(StrEnum):
    """Status of a conversation. *Open* means active or paused; a closed status is final."""

    PENDING = "pending"
    PROGRESS = "progress"
    IDLE_TIMEOUT = "idle_timeout"
    AGENT_CLOSED = "agent_closed"
    SUPPORT_CLOSED = "support_closed"
    USER_CLOSED = "user_closed"
    EXPIRED = "expired"
    FAILED = "failed"

    @classmethod
    @cache
    def active_statuses(cls) -> tuple[ConversationStatus, ...]:
        """Return the statuses in which the idle timeout runs."""
        return (cls.PENDING, cls.PROGRESS)

    @classmethod
    @cache
    def paused_statuses(cls) -> tuple[ConversationStatus, ...]:
        """Return the statuses from which activity reactivates the conversation."""
        return (cls.IDLE_TIMEOUT,)

    @classmethod
    @cache
    def open_statuses(cls) -> tuple[ConversationStatus, ...]:
        """Return the active and paused statuses: a pair of addresses has at most one conversation in them."""
        return cls.active_statuses() + cls.paused_statuses()

    @classmethod
    @cache
    def closed_statuses(cls) -> tuple[ConversationStatus, ...]:
        """Return the final statuses: a later message opens a new conversation."""
        return tuple(status for status in cls if status not in cls.open_statuses())


class Sender(StrEnum):
    """Who sent a message; `SENDER_RULES` says what it does to the conversation."""

    USER = "user"
    AGENT = "agent"
    SUPPORT = "support"
    BOT = "bot"
    SYSTEM = "system"


class SenderRule(NamedTuple):
    """What a message of one sender does."""

    is_inbound: bool
    """It is the customer's."""
    is_activity: bool
    """It keeps the conversation active; otherwise it is a notice, which changes nothing."""
    answers: bool
    """Somebody of yours has answered: `pending` becomes `progress`."""
    opens: bool
    """It opens a conversation where none is open, unless the message says otherwise."""
    opens_as: ConversationStatus


SENDER_RULES = {
    Sender.USER: SenderRule(True, True, False, True, ConversationStatus.PENDING),
    Sender.AGENT: SenderRule(False, True, True, True, ConversationStatus.PROGRESS),
    Sender.SUPPORT: SenderRule(False, True, True, True, ConversationStatus.PROGRESS),
    Sender.BOT: SenderRule(False, True, False, True, ConversationStatus.PROGRESS),
    Sender.SYSTEM: SenderRule(False, False, False, False, ConversationStatus.PROGRESS),
}
"""The table of senders (docs/messages.md)."""


class EventType(StrEnum):
    """Type of the event that records a transition."""

    ACTIVATED = "activated"
    REACTIVATED = "reactivated"
    PAUSED = "paused"
    EXPIRED = "expired"
    CLOSED = "closed"
    FAILED = "failed"


_FROM_ACTIVE = frozenset({ConversationStatus.IDLE_TIMEOUT, *ConversationStatus.closed_statuses()})
TRANSITIONS: dict[ConversationStatus, frozenset[ConversationStatus]] = {
    ConversationStatus.PENDING: _FROM_ACTIVE | {ConversationStatus.PROGRESS},
    ConversationStatus.PROGRESS: _FROM_ACTIVE,
    ConversationStatus.IDLE_TIMEOUT: frozenset(
        {*ConversationStatus.active_statuses(), *ConversationStatus.closed_statuses()}
    ),
    **{status: frozenset() for status in ConversationStatus.closed_statuses()},
}
"""The statuses that a conversation can change to, by its present status."""

EVENT_TYPES: dict[ConversationStatus, EventType] = {
    ConversationStatus.PROGRESS: EventType.ACTIVATED,
    ConversationStatus.IDLE_TIMEOUT: EventType.PAUSED,
    **dict.fromkeys(ConversationStatus.closed_statuses(), EventType.CLOSED),
    ConversationStatus.EXPIRED: EventType.EXPIRED,
    ConversationStatus.FAILED: EventType.FAILED,
}
"""The event type of a transition by its new status, but for the exception in `event_type`."""

_SENDERS = {sender.value: sender for sender in Sender}


def parse_sender(sender: str) -> Sender:
    """Return the `Sender` of this name; any other value raises `InvalidInputError`."""
    if isinstance(sender, str) and sender in _SENDERS:
        return _SENDERS[sender]
    raise InvalidInputError(f"unknown sender {shown(sender)}: use one of {', '.join(Sender)}")


def parse_closed_status(status: str) -> ConversationStatus:
    """Return the closed status of this name; any other value raises `InvalidInputError`."""
    closed = {status.value: status for status in ConversationStatus.closed_statuses()}
    if isinstance(status, str) and status in closed:
        return closed[status]
    raise InvalidInputError(f"{shown(status)} does not close a conversation: use one of {', '.join(closed)}")


@cache
def event_type(from_status: ConversationStatus, to_status: ConversationStatus) -> EventType:
    """Return the event type of a transition; what is active after a pause was reactivated, otherwise activated.

    Raises:
        InvalidTransitionError: it is none of `TRANSITIONS`.
    """
    if to_status not in TRANSITIONS[from_status]:
        raise InvalidTransitionError(from_status, to_status)
    if from_status in ConversationStatus.paused_statuses() and to_status in ConversationStatus.active_statuses():
        return EventType.REACTIVATED
    return EVENT_TYPES[to_status]


def status_after_message(status: ConversationStatus, sender: Sender, *, was_answered: bool) -> ConversationStatus:
    """Return the status of an open conversation after a message on time.

    Args:
        status: before the message.
        sender: who sent it.
        was_answered: somebody of yours had answered in this conversation before.
    """
    rule = SENDER_RULES[sender]
    if not rule.is_activity or status is ConversationStatus.PROGRESS:
        return status
    if rule.answers or (was_answered and status in ConversationStatus.paused_statuses()):
        return ConversationStatus.PROGRESS
    return ConversationStatus.PENDING


def statuses_unchanged_by(sender: Sender) -> tuple[ConversationStatus, ...]:
    """Return the active statuses that a message from this sender does not change: the fast path of a message."""
    active = ConversationStatus.active_statuses()
    return tuple(status for status in active if status_after_message(status, sender, was_answered=False) is status)


def whole_seconds(duration: timedelta) -> int:
    """Return a duration in whole seconds, the unit in which the store keeps it."""
    return round(duration.total_seconds())


def is_due(deadline: datetime, now: datetime) -> bool:
    """Return whether a deadline has passed; at the deadline itself it has not."""
    return deadline < now


def require_utc(moment: datetime) -> datetime:
    """Return an aware datetime in UTC.

    Raises:
        NaiveDatetimeError: it has no time zone.
        InvalidInputError: it is not a datetime, its time zone is unusable, or in UTC it is outside the calendar.
    """
    if not isinstance(moment, datetime):
        raise InvalidInputError(f"a moment must be an aware datetime, not {shown(moment)}")
    if moment.tzinfo is UTC:
        return moment
    try:
        if moment.utcoffset() is not None:
            return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError(f"{moment.isoformat()} lies outside the calendar in UTC") from None
    except (NotImplementedError, TypeError, ValueError):
        raise InvalidInputError(f"{moment.replace(tzinfo=None).isoformat()} has an unusable time zone") from None
    raise NaiveDatetimeError(f"{moment.isoformat()} has no time zone; lapse takes aware datetimes only")

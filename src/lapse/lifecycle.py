"""The rules of a conversation's life: statuses, transitions, deadlines. Pure functions: no clock, no database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

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
    def active_statuses(cls) -> tuple[ConversationStatus, ...]:
        """Return the statuses in which the idle timeout runs."""
        return (cls.PENDING, cls.PROGRESS)

    @classmethod
    def paused_statuses(cls) -> tuple[ConversationStatus, ...]:
        """Return the statuses from which a message reactivates the conversation."""
        return (cls.IDLE_TIMEOUT,)

    @classmethod
    def open_statuses(cls) -> tuple[ConversationStatus, ...]:
        """Return the active and paused statuses: a pair of addresses has at most one conversation in them."""
        return cls.active_statuses() + cls.paused_statuses()

    @classmethod
    def closed_statuses(cls) -> tuple[ConversationStatus, ...]:
        """Return the final statuses: a later message opens a new conversation."""
        return tuple(status for status in cls if status not in cls.open_statuses())


class Sender(StrEnum):
    """The side that sent a message; `user` is the customer."""

    USER = "user"
    AGENT = "agent"
    SUPPORT = "support"
    SYSTEM = "system"


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
    ConversationStatus.IDLE_TIMEOUT: frozenset({ConversationStatus.PROGRESS, *ConversationStatus.closed_statuses()}),
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


def check_transition(from_status: ConversationStatus, to_status: ConversationStatus) -> None:
    """Raise `InvalidTransitionError` unless a transition is one of `TRANSITIONS`."""
    if to_status not in TRANSITIONS[from_status]:
        raise InvalidTransitionError(from_status, to_status)


def event_type(from_status: ConversationStatus, to_status: ConversationStatus) -> EventType:
    """Return the event type of a transition; progress after a pause is a reactivation, otherwise an activation."""
    if (from_status, to_status) == (ConversationStatus.IDLE_TIMEOUT, ConversationStatus.PROGRESS):
        return EventType.REACTIVATED
    return EVENT_TYPES[to_status]


def initial_status(sender: Sender) -> ConversationStatus:
    """Return the status of a new conversation whose first message is from this side."""
    return ConversationStatus.PENDING if sender is Sender.USER else ConversationStatus.PROGRESS


def status_after_message(status: ConversationStatus, sender: Sender) -> ConversationStatus:
    """Return the status of an open conversation after a message from this side."""
    if status is ConversationStatus.PENDING and sender is Sender.USER:
        return status
    return ConversationStatus.PROGRESS


def statuses_unchanged_by(sender: Sender) -> tuple[ConversationStatus, ...]:
    """Return the open statuses that a message from this side does not change: the fast path of `record_message`."""
    open_statuses = ConversationStatus.open_statuses()
    return tuple(status for status in open_statuses if status_after_message(status, sender) is status)


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

"""What a message does to the conversations of its pair. Pure functions: no clock, no database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from lapse.addresses import masked, shown
from lapse.checked_message import CheckedMessage
from lapse.errors import InvalidTransitionError
from lapse.lifecycle import (
    SENDER_RULES,
    ConversationStatus,
    Sender,
    event_type,
    is_due,
    status_after_message,
)
from lapse.messages import Outcome
from lapse.models import AnyId, Conversation, ConversationEvent, add_clamped, changed

MESSAGE = "message"
"""The reason of a transition that a message makes."""
WORKER = "worker"
"""The actor of a transition at a deadline."""


class PairState(NamedTuple):
    """The conversations of a pair that matter to a message."""

    open: Conversation | None
    latest: Conversation | None = None
    """The latest of those that have ended."""

    def get(self, conv_id: AnyId | None) -> Conversation | None:
        """Return the one with this id; None: neither has it."""
        return next((one for one in self if one is not None and one.conv_id == conv_id), None)


class Effect(NamedTuple):
    """What one message does; conversations are as they are afterwards."""

    outcome: Outcome
    state: PairState
    conversation: Conversation | None = None
    """The one that the message belongs to."""
    events: tuple[ConversationEvent, ...] = ()
    expired: Conversation | None = None
    """The one that it found past its expiry."""


def effect_of(message: CheckedMessage, state: PairState, now: datetime, new_id: AnyId | None) -> Effect:
    """Return what a message does that arrives at `now`.

    A message that was sent earlier has the effect that it would have had on time, as far as that can still be true:
    nothing moves backwards, what would be idle again by now is not brought back, and what would have ended by now is
    not opened.

    Args:
        message: the message.
        state: the conversations of its pair.
        now: the present; `sent_at` later than that counts as now.
        new_id: of the conversation that it opens, if it may and nothing is open.
    """
    at = now if message.sent_at is None else min(message.sent_at, now)
    if state.open is not None and is_due(state.open.expires_at, now):
        expired, event = _expire(state.open, now, message.sender.value)
        effect = _effect_on_live(message, PairState(None, expired), at, now, new_id)
        return effect._replace(events=(event, *effect.events), expired=expired)
    return _effect_on_live(message, state, at, now, new_id)


def _effect_on_live(
    message: CheckedMessage, state: PairState, at: datetime, now: datetime, new_id: AnyId | None
) -> Effect:
    open_, latest = state
    if message.is_activity and message.sent_at is not None and latest is not None:
        is_before_open = open_ is None or at < open_.started_at
        if is_before_open and at <= end_of(latest):  # on time it would have been a message of that one
            latest = with_activity(latest, message.sender, at)
            return Effect(Outcome.LATE, PairState(open_, latest), latest)
    if open_ is not None:
        if at < open_.started_at and _would_have_ended(message, at, now):
            return Effect(Outcome.LATE, state)  # on time it would have been of one that has ended by now
        outcome, open_, events = _continue(message, open_, at, now)
        return Effect(outcome, PairState(open_, latest), open_, events)
    if not message.opens or new_id is None:
        return Effect(Outcome.NOT_OPENED, state)
    if _would_have_ended(message, at, now):
        return Effect(Outcome.LATE, state)
    opened = new_conversation(message, latest, at, new_id)
    return Effect(Outcome.OPENED, PairState(opened, latest), opened)


def _would_have_ended(message: CheckedMessage, at: datetime, now: datetime) -> bool:
    """Return whether what the message would open at `at` would have expired by now."""
    return is_due(add_clamped(at, timedelta(seconds=message.expiration_seconds)), now)


TICK = timedelta(microseconds=1)
"""Deadlines are strict: the first moment at which one has passed is so much later."""


def act_on_deadlines(
    state: PairState, moment: datetime, idle_timeout_seconds: int
) -> tuple[PairState, tuple[ConversationEvent, ...]]:
    """Return what a worker that is never late has done to a pair's conversations by this moment, and its events."""
    open_, latest = state
    if open_ is None:
        return state, ()
    events: list[ConversationEvent] = []
    idle_since = add_clamped(open_.updated_at, timedelta(seconds=idle_timeout_seconds))
    is_idle = open_.status in ConversationStatus.active_statuses() and is_due(idle_since, moment)
    if is_idle and idle_since < open_.expires_at:
        open_, event = make_transition(
            open_,
            ConversationStatus.IDLE_TIMEOUT,
            at=idle_since + TICK,
            reason=ConversationStatus.IDLE_TIMEOUT.value,
            actor=WORKER,
            deadline=idle_since,
            data={"idle_timeout_seconds": idle_timeout_seconds},
        )
        events.append(event)
    if not is_due(open_.expires_at, moment):
        return PairState(open_, latest), tuple(events)
    expired, event = _expire(open_, open_.expires_at + TICK, WORKER)
    return PairState(None, expired), (*events, event)


def _continue(
    message: CheckedMessage, open_: Conversation, at: datetime, now: datetime
) -> tuple[Outcome, Conversation, tuple[ConversationEvent, ...]]:
    if not message.is_activity:
        return Outcome.CONTINUED, open_, ()
    sender, activity = message.sender, _activity(open_, message.sender, at)
    is_paused = open_.status in ConversationStatus.paused_statuses()
    if is_paused:
        next_check = add_clamped(at, timedelta(seconds=message.idle_timeout_seconds))
        if is_due(next_check, now):
            return Outcome.LATE, changed(open_, **activity), ()
    status = status_after_message(open_.status, sender, was_answered=open_.first_answered_at is not None)
    if status is open_.status:
        return Outcome.CONTINUED, changed(open_, **activity), ()
    if is_paused:
        activity |= {"idle_check_at": next_check, "idle_timeout_seconds": message.idle_timeout_seconds}
    moved, event = make_transition(open_, status, at=now, reason=MESSAGE, actor=sender.value, others=activity)
    return Outcome.REACTIVATED if is_paused else Outcome.ANSWERED, moved, (event,)


def new_conversation(
    message: CheckedMessage, latest: Conversation | None, at: datetime, conv_id: AnyId
) -> Conversation:
    """Return the conversation that a message opens at `at`; `latest` is the one of this pair before it.

    It carries over when the customer last wrote, so that the provider's window is known.
    """
    rule = SENDER_RULES[message.sender]
    return Conversation(
        conv_id=conv_id,
        owner_id=message.owner_id,
        channel=message.pair.channel,
        session_key=message.pair.session_key,
        from_number=message.pair.from_number,
        to_number=message.pair.to_number,
        user_id=message.user_id,
        status=rule.opens_as,
        version=0,
        opened_by=message.sender,
        started_at=at,
        updated_at=at,
        last_inbound_at=at if rule.is_inbound else None if latest is None else latest.last_inbound_at,
        last_outbound_at=at if rule.is_activity and not rule.is_inbound else None,
        first_answered_at=at if rule.answers else None,
        ended_at=None,
        expires_at=add_clamped(at, timedelta(seconds=message.expiration_seconds)),
        idle_check_at=add_clamped(at, timedelta(seconds=message.idle_timeout_seconds)),
        idle_timeout_seconds=message.idle_timeout_seconds,
        context=message.context,
        metadata=message.metadata,
    )


def with_activity(conversation: Conversation, sender: Sender, at: datetime) -> Conversation:
    """Return the conversation with the times of a message sent at `at`: nothing moves backwards."""
    return changed(conversation, **_activity(conversation, sender, at))


def _activity(conversation: Conversation, sender: Sender, at: datetime) -> dict[str, Any]:
    rule = SENDER_RULES[sender]
    inbound, outbound, answered = (
        conversation.last_inbound_at,
        conversation.last_outbound_at,
        conversation.first_answered_at,
    )
    return {
        "updated_at": max(conversation.updated_at, at),
        "last_inbound_at": max(inbound or at, at) if rule.is_inbound else inbound,
        "last_outbound_at": outbound if rule.is_inbound else max(outbound or at, at),
        "first_answered_at": min(answered or at, at) if rule.answers else answered,
    }


def end_of(closed: Conversation) -> datetime:
    """Return when a closed conversation ended: one that expired, at its expiry, whenever that was noticed."""
    ended_at = closed.ended_at or closed.updated_at
    return min(ended_at, closed.expires_at) if closed.status is ConversationStatus.EXPIRED else ended_at


def _expire(conversation: Conversation, now: datetime, actor: str) -> tuple[Conversation, ConversationEvent]:
    status = ConversationStatus.EXPIRED
    return make_transition(
        conversation, status, at=now, reason=status.value, actor=actor, deadline=conversation.expires_at
    )


def make_transition(
    conversation: Conversation,
    to_status: ConversationStatus,
    *,
    at: datetime,
    reason: str | None,
    actor: str | None,
    deadline: datetime | None = None,
    data: dict[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
) -> tuple[Conversation, ConversationEvent]:
    """Return the conversation after a transition, with these others of its values; and the transition's event.

    Raises:
        InvalidTransitionError: the table of transitions does not have it.
    """
    from_status = conversation.status
    if not isinstance(from_status, ConversationStatus):
        raise InvalidTransitionError(
            str(from_status),
            to_status,
            f"conversation {masked(conversation.conv_id)} has the status {shown(from_status)}, which is the "
            "application's own: lapse leaves it alone",
        )
    type_ = event_type(from_status, to_status)
    ended_at = at if to_status in ConversationStatus.closed_statuses() else None
    version = conversation.version + 1
    moved = changed(conversation, status=to_status, version=version, ended_at=ended_at, **(others or {}))
    event = ConversationEvent(
        owner_id=moved.owner_id,
        conv_id=moved.conv_id,
        version=moved.version,
        type=type_,
        from_status=from_status,
        to_status=to_status,
        reason=reason,
        actor=actor,
        deadline=deadline,
        occurred_at=at,
        data=data or {},
    )
    return moved, event

"""The messages of one transaction, and what they do to the conversations of their pairs."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from lapse.checked_message import CheckedMessage, PairKey, ReceiptKey
from lapse.effects import Effect, PairState, act_on_deadlines, effect_of
from lapse.lifecycle import is_due
from lapse.messages import MessageResult, Outcome
from lapse.models import AnyId, Conversation, ConversationEvent
from lapse.store.operations.id_generation import new_conv_id
from lapse.store.operations.steps import Steps
from lapse.store.statements import Row, Statements

RECENT = timedelta(minutes=5)
"""No call lasts so long."""


class OwnTraces(dict[PairKey, AnyId]):
    """What a call leaves in the database, the same at each attempt: so it knows what one did whose answer was lost.

    By pair, the id of the conversation that it may open; and the fraction of a second in the times of its receipts.
    """

    may_be_there = False
    """Something was attempted more than once."""
    results: Sequence[MessageResult | None] = ()
    """Of the latest attempt that came as far as its COMMIT."""

    def __init__(self) -> None:
        """Begin without any."""
        super().__init__()
        self._answered: set[ReceiptKey] = set()

    def note_answer(self, messages: Sequence[CheckedMessage]) -> None:
        """Note that a transaction was answered: what it left is no lost attempt's for the next one of this call."""
        for message in messages:
            self.pop(message.key, None)
            if message.message_id is not None:
                self._answered.add(message.receipt_key)

    @cached_property
    def microsecond(self) -> int:
        """Return the fraction of a second, in microseconds."""
        return secrets.randbelow(1_000_000)

    def has_opened_by(self, place: int) -> bool:
        """Return whether the message at this place opened a conversation in an earlier attempt."""
        earlier = self.results[place] if self.results else None
        return earlier is not None and earlier.outcome is Outcome.OPENED

    def made(self, receipt: Row, now: datetime) -> bool:
        """Return whether a receipt is one of an earlier attempt: of a million others, one may be taken for it."""
        if not self.may_be_there or (receipt.owner_id, receipt.channel, receipt.message_id) in self._answered:
            return False
        age = now - receipt.seen_at
        return bool(receipt.seen_at.microsecond == self.microsecond and age < RECENT)


def places_by_pair(messages: Sequence[CheckedMessage]) -> dict[PairKey, list[int]]:
    """Return the places of each pair's messages, in order."""
    pairs: dict[PairKey, list[int]] = {}
    for place, message in enumerate(messages):
        pairs.setdefault(message.key, []).append(place)
    return pairs


@dataclass(slots=True)
class MessageGroup:
    """Messages in one transaction, and what is known of them so far."""

    sql: Statements
    messages: Sequence[CheckedMessage]
    ids: OwnTraces
    is_virtual: bool
    skips_locked: bool
    """A conversation that another session has locked is left out, and not waited for."""
    results: list[MessageResult | None]
    pairs: dict[PairKey, list[int]] = field(default_factory=dict)
    """The places of each pair's messages, in order; pairs in the order of their keys, in which rows are locked."""
    is_new: dict[int, bool] = field(default_factory=dict)
    """Whether a message with an id was seen for the first time, by its place."""
    first: set[int] = field(default_factory=set)
    """Of the messages with the same id, the place of the first in this group."""
    guessed: dict[int, AnyId | None] = field(default_factory=dict)
    """The conversation that its receipt names."""

    def __post_init__(self) -> None:
        self.pairs = dict(sorted(places_by_pair(self.messages).items()))


@dataclass(slots=True)
class Changes:
    """What the messages do, and what is to be written for it."""

    now: datetime
    before: dict[AnyId, Conversation] = field(default_factory=dict)
    """Conversations as they were read."""
    after: dict[AnyId, Conversation] = field(default_factory=dict)
    """Those that messages belong to or end, as they will be."""
    events: list[ConversationEvent] = field(default_factory=list)
    effects: dict[int, Effect] = field(default_factory=dict)
    """By the place of the message; copies have none."""

    def note(self, state: PairState) -> None:
        """Note how a pair's conversations are after a step."""
        for conversation in state:
            if conversation is not None:
                self.after[conversation.conv_id] = conversation

    @property
    def opened(self) -> list[Conversation]:
        """Return the new ones."""
        return [conversation for conv_id, conversation in self.after.items() if conv_id not in self.before]

    @property
    def updated(self) -> list[Conversation]:
        """Return those that were there and are changed."""
        return [new for conv_id, new in self.after.items() if self.before.get(conv_id, new) is not new]


def fold(group: MessageGroup, changes: Changes, key: PairKey, state: PairState) -> Steps[None]:
    """Work out what the messages of one pair do, one after the other."""
    changes.before |= {one.conv_id: one for one in state if one is not None}
    own = state.get(group.ids.get(key))
    for place in group.pairs[key]:
        message = group.messages[place]
        if not group.is_new.get(place, True):
            if group.ids.has_opened_by(place):
                own = None  # by this message, whose receipt tells: no later one is taken for it
            continue
        now = changes.now if message.sent_at is None or not group.is_virtual else message.sent_at
        if group.is_virtual:
            state, events = act_on_deadlines(state, now, message.idle_timeout_seconds)
            changes.events += events
            if events:
                changes.note(state)
        if own is not None:  # opened by an attempt at this very message whose answer was lost
            effect, own = Effect(Outcome.OPENED, state, own), None
        else:
            may_open = message.opens and not is_live(state, now)
            new_id = (yield from own_id(group, key)) if may_open else None
            effect = effect_of(message, state, now, new_id)
        if effect.outcome is Outcome.OPENED and group.is_virtual:
            del group.ids[key]  # the pair may open another one in this transaction
        if effect.state.latest is not state.latest:
            changes.note(effect.state)
        state = effect.state
        changes.events += effect.events
        changes.effects[place] = effect
    changes.note(state)


def is_live(state: PairState, now: datetime) -> bool:
    """Return whether a pair has an open conversation that is not past its expiry."""
    return state.open is not None and not is_due(state.open.expires_at, now)


def own_id(group: MessageGroup, key: PairKey) -> Steps[AnyId]:
    """Return the id of the conversation that this call may open for a pair."""
    if key not in group.ids:
        group.ids[key] = yield from new_conv_id(group.sql)
    return group.ids[key]

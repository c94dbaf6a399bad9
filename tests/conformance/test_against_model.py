"""Random lives of conversations, on every database, against an independent model of the rules."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lapse import (
    Conversation,
    ConversationAlreadyOpenError,
    ConversationExpiredError,
    ConversationService,
    InvalidTransitionError,
    Message,
    MessageResult,
    load_settings,
)
from lapse.models import AnyId
from lapse.store.connection import Connection
from lapse.store.rows import row_to_conversation, row_to_event
from tests.conftest import THREADS, OpenService
from tests.support.clock import START, ManualClock
from tests.support.conversation_model import OPEN, ConversationModel, ModelConversation
from tests.support.sql import own_tables, transaction

IDLE_MINUTES, EXPIRATION_MINUTES = 30, 120
TICK = timedelta(microseconds=1)
SENDERS = st.sampled_from(["user", "user", "agent", "support", "bot", "system"])
PAIRS = st.tuples(st.integers(1, 2), st.integers(0, 2))
CLOSED = st.sampled_from(["agent_closed", "support_closed", "user_closed", "expired", "failed"])
IDLE_TIMEOUTS = st.sampled_from([None, None, 5, 30, 45])
TIMES_OF_MESSAGES = ("last_inbound_at", "last_outbound_at", "first_answered_at")
LIMITS = st.sampled_from([1, 2, 100])
# One address of each pair in several spellings: they must not matter.
SPELLINGS = [
    ["+5511999999999", "whatsapp:+55 (11) 99999-9999", "551199999999"],
    ["+5215512345678", "+525512345678", "whatsapp:525512345678"],
    ["+15005550006", "whatsapp:+15005550006", "1 (500) 555-0006"],
]
BUSINESS = "+14155238886"


class ConversationMachine(RuleBasedStateMachine):
    def __init__(self, service: ConversationService, clock: ManualClock) -> None:
        super().__init__()
        self.service, self.clock = service, clock
        self.model = ConversationModel(EXPIRATION_MINUTES)
        self.ids: dict[int, AnyId] = {}
        self.sent = 0
        self.recorded: list[Message] = []
        self.tables = own_tables(service.database)

    @initialize()
    def begin_empty(self) -> None:
        self.clock.now = START
        with transaction(self.service.database) as connection:
            connection.execute(sa.delete(self.tables.receipts))
            connection.execute(sa.delete(self.tables.events))
            connection.execute(sa.delete(self.tables.conversations))

    # --- what applications do

    @rule(pair=PAIRS, sender=SENDERS, spelling=st.integers(0, 2), reverse=st.booleans())
    def message(self, pair: tuple[int, int], sender: str, spelling: int, reverse: bool) -> None:
        addresses = (SPELLINGS[pair[1]][spelling], BUSINESS)
        found = self.service.record_message(pair[0], *(addresses[::-1] if reverse else addresses), sender=sender)
        self.remember(self.model.message(pair, sender, self.clock.now), found)

    @rule(sent=st.lists(st.tuples(PAIRS, SENDERS, st.booleans()), min_size=1, max_size=6))
    def messages_together(self, sent: list[tuple[tuple[int, int], str, bool]]) -> None:
        messages = []
        for pair, sender, has_id in sent:
            self.sent += 1
            message_id = f"wamid.{self.sent}" if has_id else None
            messages.append(Message(pair[0], SPELLINGS[pair[1]][0], BUSINESS, sender=sender, message_id=message_id))
        results = self.service.record_messages(messages)
        self.recorded += [message for message in messages if message.message_id]
        for (pair, sender, _), result in zip(sent, results, strict=True):
            assert isinstance(result, MessageResult)
            assert result.outcome != "copy"
            self.remember(self.model.message(pair, sender, self.clock.now), result.conversation)

    @precondition(lambda self: self.recorded)
    @rule(data=st.data(), is_alone=st.booleans())
    def copies(self, data: st.DataObject, is_alone: bool) -> None:
        """Whatever has come of a message: the same once more changes nothing, as the invariant sees."""
        copies = data.draw(st.lists(st.sampled_from(self.recorded), min_size=1, max_size=3))
        results = [self.service.record(one) for one in copies] if is_alone else self.service.record_messages(copies)
        assert [result.outcome for result in results if isinstance(result, MessageResult)] == ["copy"] * len(copies)

    @rule(pair=PAIRS, sender=SENDERS)
    def get_or_create(self, pair: tuple[int, int], sender: str) -> None:
        found = self.service.get_or_create_conversation(pair[0], SPELLINGS[pair[1]][0], BUSINESS, sender=sender)
        now = self.clock.now
        self.remember(self.model.live(pair, now) or self.model.open(pair, sender, now), found)

    @rule(pair=PAIRS)
    def create(self, pair: tuple[int, int]) -> None:
        live = self.model.live(pair, self.clock.now)
        if live is None:
            found = self.service.create_conversation(pair[0], SPELLINGS[pair[1]][0], BUSINESS)
            self.remember(self.model.open(pair, "user", self.clock.now), found)
            return
        with pytest.raises(ConversationAlreadyOpenError) as caught:
            self.service.create_conversation(pair[0], SPELLINGS[pair[1]][0], BUSINESS)
        assert caught.value.conv_id == self.id_of(live)

    @precondition(lambda self: self.model.conversations)
    @rule(data=st.data(), status=CLOSED)
    def close(self, data: st.DataObject, status: str) -> None:
        chosen = data.draw(st.sampled_from(self.model.conversations))
        if chosen.status in OPEN:
            self.service.close_conversation(self.id_of(chosen), status)
            chosen.go(status, self.clock.now)
            return
        with pytest.raises(InvalidTransitionError) as caught:
            self.service.close_conversation(self.id_of(chosen), status)
        assert (caught.value.from_status, caught.value.to_status) == (chosen.status, status)

    @precondition(lambda self: self.model.conversations)
    @rule(data=st.data(), minutes=st.sampled_from([1, 60, 0.5]))
    def extend(self, data: st.DataObject, minutes: float) -> None:
        chosen = data.draw(st.sampled_from(self.model.conversations))
        if chosen.status in OPEN and not chosen.is_past_expiry(self.clock.now):
            self.service.extend_expiration(self.id_of(chosen), minutes)
            chosen.expires_at += timedelta(minutes=minutes)
            return
        error = ConversationExpiredError if chosen.status in OPEN else InvalidTransitionError
        with pytest.raises(error):
            self.service.extend_expiration(self.id_of(chosen), minutes)

    # --- what workers do

    @rule(idle_minutes=IDLE_TIMEOUTS, limit=LIMITS)
    def sweep_idle(self, idle_minutes: float | None, limit: int) -> None:
        minutes = IDLE_MINUTES if idle_minutes is None else idle_minutes
        due = self.model.idle(self.clock.now, minutes)
        found = {conversation.conv_id for conversation in self.service.find_idle_conversations(idle_minutes)}
        assert found == {self.id_of(conversation) for conversation in due}
        ended = self.service.process_idle_conversations(idle_minutes, limit)
        assert ended == min(limit, len(due))
        for conversation in self.ended_among(due, "idle_timeout", ended):
            conversation.go("idle_timeout", self.clock.now, conversation.updated_at + timedelta(minutes=minutes))

    @rule(limit=LIMITS)
    def sweep_expired(self, limit: int) -> None:
        due = self.model.past_expiry(self.clock.now)
        found = {conversation.conv_id for conversation in self.service.find_expired_conversations()}
        assert found == {self.id_of(conversation) for conversation in due}
        ended = self.service.process_expired_conversations(limit)
        assert ended == min(limit, len(due))
        for conversation in self.ended_among(due, "expired", ended):
            conversation.go("expired", self.clock.now, conversation.expires_at)
        left = [conversation.expires_at for conversation in due if conversation.status != "expired"]
        taken = [conversation.expires_at for conversation in due if conversation.status == "expired"]
        assert max(taken, default=START) <= min(left, default=self.clock.now), "the longest overdue goes first"

    # --- what time does

    @rule(minutes=st.sampled_from([0.25, 4, 5, 26, 30, 61, 121]))
    def wait(self, minutes: float) -> None:
        self.clock.advance(minutes=minutes)

    @precondition(lambda self: self.model.conversations)
    @rule(data=st.data(), idle_minutes=IDLE_TIMEOUTS, ticks=st.sampled_from([-1, 0, 1]), sender=SENDERS)
    def act_at_a_deadline(self, data: st.DataObject, idle_minutes: int | None, ticks: int, sender: str) -> None:
        """Deadlines are strict: the moments around them are where a rule goes wrong by one."""
        chosen = data.draw(st.sampled_from(self.model.conversations))
        is_idle = data.draw(st.booleans())
        idle_at = chosen.updated_at + timedelta(minutes=idle_minutes or IDLE_MINUTES)
        self.clock.now = max(self.clock.now, (idle_at if is_idle else chosen.expires_at) + ticks * TICK)
        if data.draw(st.booleans()):
            self.message(chosen.pair, sender, 0, False)
        elif is_idle:
            self.sweep_idle(idle_minutes, 100)
        else:
            self.sweep_expired(100)

    # --- what must always hold

    @invariant()
    def the_database_holds_what_the_model_holds(self) -> None:
        def read(connection: Connection) -> tuple[list[Any], list[Any]]:
            rows = [row_to_conversation(row) for row in connection.execute(sa.select(*self.tables.conversation))]
            ordered = sa.select(self.tables.events).order_by(self.tables.events.c.version)
            return rows, [row_to_event(row) for row in connection.execute(ordered)]

        rows, events = self.service.database.autocommit(read)
        assert len(rows) == len(self.model.conversations)
        stored = {row.conv_id: row for row in rows}
        for conversation in self.model.conversations:
            row = stored[self.id_of(conversation)]
            shared = [*("status", "started_at", "updated_at", "expires_at", "ended_at"), *TIMES_OF_MESSAGES]
            assert {name: getattr(row, name) for name in shared} == {
                name: getattr(conversation, name) for name in shared
            }
            own = [event for event in events if event.conv_id == row.conv_id]
            assert [event.version for event in own] == list(range(1, row.version + 1))
            assert [(e.from_status, e.to_status, e.occurred_at, e.deadline) for e in own] == conversation.events

    # --- inside

    def remember(self, conversation: ModelConversation | None, found: Conversation | None) -> None:
        assert (conversation is None) == (found is None)
        if found is not None:
            assert self.ids.setdefault(id(conversation), found.conv_id) == found.conv_id

    def id_of(self, conversation: ModelConversation) -> AnyId:
        return self.ids[id(conversation)]

    def ended_among(self, due: list[ModelConversation], status: str, number: int) -> list[ModelConversation]:
        """Return those of the due ones that the sweep took, which may choose when its limit is smaller."""
        ended = [found for found in due if self.service.get_conversation_by_id(self.id_of(found)).status == status]
        assert len(ended) == number
        return ended


def test_random_lives_are_those_of_the_model(
    database_url: str, clock: ManualClock, open_service: OpenService, driver: str
) -> None:
    lengths = load_settings(idle_timeout_minutes=IDLE_MINUTES, expiration_minutes=EXPIRATION_MINUTES)
    service = open_service(database_url, settings=lengths, clock=clock)
    run_state_machine_as_test(
        lambda: ConversationMachine(service, clock),  # type: ignore[arg-type]  # any maker of machines will do
        settings=hypothesis_settings(max_examples=60 if driver == THREADS else 20, stateful_step_count=40),
    )

"""The rules of conversations a second time, as simply as they can be said: what the stateful test compares with.

Knows nothing of lapse: no import of it, no database, no lazy deadlines. Times are aware datetimes, timeouts minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

ACTIVE = {"pending", "progress"}
OPEN = {*ACTIVE, "idle_timeout"}
ANSWERING = {"agent", "support"}


@dataclass
class ModelConversation:
    pair: tuple[int, int]
    status: str
    started_at: datetime
    updated_at: datetime
    expires_at: datetime
    last_inbound_at: datetime | None
    last_outbound_at: datetime | None = None
    first_answered_at: datetime | None = None
    ended_at: datetime | None = None
    events: list[tuple[str, str, datetime, datetime | None]] = field(default_factory=list)

    def note(self, sender: str, now: datetime) -> None:
        if sender == "user":
            self.last_inbound_at = now
        if sender in ANSWERING or sender == "bot":
            self.last_outbound_at = now
        if sender in ANSWERING:
            self.first_answered_at = self.first_answered_at or now

    def go(self, status: str, at: datetime, deadline: datetime | None = None) -> None:
        self.events.append((self.status, status, at, deadline))
        self.status = status
        if status not in OPEN:
            self.ended_at = at

    def is_past_expiry(self, now: datetime) -> bool:
        return self.status in OPEN and self.expires_at < now

    def is_idle(self, now: datetime, idle_minutes: float) -> bool:
        idle_at = self.updated_at + timedelta(minutes=idle_minutes)
        return self.status in ACTIVE and idle_at < now and not self.is_past_expiry(now)


class ConversationModel:
    """Conversations by their order of opening; `pair` is (owner, pair of addresses)."""

    def __init__(self, expiration_minutes: float) -> None:
        self.expiration = timedelta(minutes=expiration_minutes)
        self.conversations: list[ModelConversation] = []

    def live(self, pair: tuple[int, int], now: datetime) -> ModelConversation | None:
        """Return the pair's open conversation; one past its expiry ends here."""
        for conversation in self.conversations:
            if conversation.pair == pair and conversation.status in OPEN:
                if not conversation.is_past_expiry(now):
                    return conversation
                conversation.go("expired", now, conversation.expires_at)
        return None

    def open(self, pair: tuple[int, int], sender: str, now: datetime) -> ModelConversation:
        status = "pending" if sender == "user" else "progress"
        before = [conversation.last_inbound_at for conversation in self.conversations if conversation.pair == pair]
        inbound = now if sender == "user" else before[-1] if before else None
        conversation = ModelConversation(pair, status, now, now, now + self.expiration, inbound)
        conversation.note(sender, now)
        self.conversations.append(conversation)
        return conversation

    def message(self, pair: tuple[int, int], sender: str, now: datetime) -> ModelConversation | None:
        conversation = self.live(pair, now)
        if conversation is None:
            return None if sender == "system" else self.open(pair, sender, now)
        if sender == "system":
            return conversation
        was_answered = conversation.first_answered_at is not None
        conversation.note(sender, now)
        if conversation.status == "pending" and sender in ANSWERING:
            conversation.go("progress", now)
        if conversation.status == "idle_timeout":
            conversation.go("progress" if was_answered or sender in ANSWERING else "pending", now)
        conversation.updated_at = now
        return conversation

    def idle(self, now: datetime, idle_minutes: float) -> list[ModelConversation]:
        return [found for found in self.conversations if found.is_idle(now, idle_minutes)]

    def past_expiry(self, now: datetime) -> list[ModelConversation]:
        return [found for found in self.conversations if found.is_past_expiry(now)]

"""What a replay must find, computed a second time from the rules alone: each pair by itself, message by message.

Knows nothing of lapse: no import of it, no database, no worker, no clock.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

COUNTS = ("messages", "conversations", "idle_timeouts", "reactivations", "expired")
COLUMNS = ["at", "owner_id", "channel", "session_key", "from_status", "to_status"]
LONG_AGO, NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class Message(NamedTuple):
    at: datetime
    owner_id: str
    channel: str
    session_key: str
    sender: str


class Event(NamedTuple):
    """A transition, spelled as the events file spells it."""

    at: str
    owner_id: str
    channel: str
    session_key: str
    from_status: str
    to_status: str


@dataclass
class _Pair:
    """One pair's present conversation and its past."""

    idle: timedelta
    expiration: timedelta
    status: str = "closed"
    last_message_at: datetime = LONG_AGO
    expires_at: datetime = LONG_AGO
    conversations: int = 0
    was_answered: bool = False
    transitions: list[tuple[datetime, str, str]] = field(default_factory=list)

    def message(self, at: datetime, sender: str) -> None:
        self.let_time_pass(at)
        if sender == "system":
            return
        self.last_message_at = at
        answers = sender in {"agent", "support"}
        if self.status == "closed":
            self.conversations += 1
            self.status, self.was_answered = "pending" if sender == "user" else "progress", answers
            self.expires_at = at + self.expiration
        elif self.status == "idle_timeout":
            self._go("progress" if answers or self.was_answered else "pending", at)
        elif self.status == "pending" and answers:
            self._go("progress", at)
        self.was_answered = self.was_answered or answers

    def let_time_pass(self, until: datetime) -> None:
        """Act on deadlines strictly before `until`; of two at the same moment, expiry is the one."""
        idle_at = self.last_message_at + self.idle
        if self.status in {"pending", "progress"} and idle_at < until and idle_at < self.expires_at:
            self._go("idle_timeout", idle_at)
        if self.status != "closed" and self.expires_at < until:
            self._go("expired", self.expires_at)
            self.status = "closed"

    def _go(self, status: str, at: datetime) -> None:
        self.transitions.append((at, self.status, status))
        self.status = status


def simulate(
    messages: Iterable[Message], idle_minutes: float, expiration_minutes: float
) -> tuple[dict[str, int], dict[tuple[str, str, str], list[Event]]]:
    """Return the counts, and every pair's transitions in order of time."""
    pairs: dict[tuple[str, str, str], _Pair] = defaultdict(
        lambda: _Pair(timedelta(minutes=idle_minutes), timedelta(minutes=expiration_minutes))
    )
    total = 0
    for message in sorted(messages, key=lambda message: message.at):
        pairs[message.owner_id, message.channel, message.session_key].message(message.at, message.sender)
        total += 1
    events = {}
    for key, pair in pairs.items():
        pair.let_time_pass(NEVER)
        events[key] = [Event(spelled(at), *key, *statuses) for at, *statuses in pair.transitions]
    made = Counter((event.from_status, event.to_status) for of_pair in events.values() for event in of_pair)
    counts = (
        total,
        sum(pair.conversations for pair in pairs.values()),
        sum(count for (_, after), count in made.items() if after == "idle_timeout"),
        made["idle_timeout", "progress"] + made["idle_timeout", "pending"],
        sum(count for (_, after), count in made.items() if after == "expired"),
    )
    return dict(zip(COUNTS, counts, strict=True)), events


def spelled(moment: datetime) -> str:
    """Return `2020-01-31T12:00:00Z`, with a fraction only where there is one."""
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{moment.microsecond:06d}Z" if moment.microsecond else f"{text}Z"


def messages_of(path: Path) -> list[Message]:
    """Read a log whose addresses have one spelling each, and times that end in Z."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Message(
                datetime.fromisoformat(row["at"]),
                row["owner_id"],
                row["channel"],
                "::".join(sorted((row["from_number"], row["to_number"]))),
                row["sender"],
            )
            for row in csv.DictReader(file)
        ]


def events_of(path: Path) -> list[Event]:
    """Read an events file, whose columns must be these and in this order."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == COLUMNS
    return [Event(*row) for row in rows]

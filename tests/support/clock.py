"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 5, 12, tzinfo=UTC)


class ManualClock:
    """A clock for `Database` and `ConversationService`: call it for the time, set `now` or `advance` it."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, *, seconds: float = 0, minutes: float = 0) -> datetime:
        """Move the clock on and return the new time."""
        self.now += timedelta(seconds=seconds, minutes=minutes)
        return self.now

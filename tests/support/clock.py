"""Clocks that stand still until a test moves them."""

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


class ManualSeconds:
    """A clock for pauses, such as `time.monotonic` is: it begins anywhere, and counts seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        self.now += seconds

"""Drains by `lapse worker`: when they are over, and from when until when they ended conversations."""

from __future__ import annotations

from benchmarks.bench import connect
from benchmarks.processes import Process

Window = tuple[float, float]
"""From when until when, in seconds since 1970."""
_WINDOW = """
    SELECT extract(epoch FROM min(occurred_at))::float8, extract(epoch FROM max(occurred_at))::float8
    FROM conversation_events WHERE type = 'expired'
"""


def wait_until_ended(worker: Process, number: int) -> None:
    """Read the worker's log until so many conversations have ended."""
    ended = 0
    while ended < number:
        ended += worker.hear_event("task processed")["count"]


def window_of(url: str) -> Window:
    """Return the time from the first transition to the last."""
    with connect(url) as connection:
        begin, end = connection.execute(_WINDOW).fetchone() or (0.0, 0.0)
    return begin, end

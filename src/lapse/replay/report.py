"""Results of a replay: totals, and every transition as CSV."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from typing import TextIO

from lapse.lifecycle import EventType
from lapse.store.chronicle import Chronicle

EVENT_COLUMNS = ("at", "owner_id", "channel", "session_key", "from_status", "to_status")


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """Totals of a replay; the field names are the keys of the JSON output."""

    messages: int
    conversations: int
    idle_timeouts: int
    reactivations: int
    expired: int


def summarise(chronicle: Chronicle, messages: int) -> ReplaySummary:
    """Return the totals of the database after a replay of `messages` messages."""
    events = Counter(chronicle.count_events_by_type())
    return ReplaySummary(
        messages=messages,
        conversations=chronicle.count_conversations(),
        idle_timeouts=events[EventType.PAUSED],
        reactivations=events[EventType.REACTIVATED],
        expired=events[EventType.EXPIRED],
    )


def write_events(chronicle: Chronicle, file: TextIO) -> None:
    """Write every transition, in order of time, as CSV."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(EVENT_COLUMNS)
    for event, channel, session_key in chronicle.events():
        moment = event.deadline or event.occurred_at  # a deadline is acted on at once in virtual time
        at = moment.isoformat().replace("+00:00", "Z")
        writer.writerow([at, event.owner_id, channel, session_key, event.from_status, event.to_status])

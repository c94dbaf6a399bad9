"""The conversations and events of a database in order of time, and their totals, for the report of a replay."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from lapse.models import ConversationEvent
from lapse.store.database import Database
from lapse.store.operations import Query, Steps
from lapse.store.rows import row_to_event
from lapse.store.statements import Statements, counts


class Chronicle:
    """The conversations and events of one database; memory does not grow with their number."""

    def __init__(self, database: Database) -> None:
        """Read from this database; its schema must be there."""
        self._database = database

    def count_conversations(self) -> int:
        """Return how many conversations there are, open and closed."""
        return self._database.run(_count_conversations)

    def count_events_by_type(self) -> dict[str, int]:
        """Return how many events there are of each type; without zeros."""
        return self._database.run(_count_events_by_type)

    def lifetime(self) -> tuple[datetime, datetime] | None:
        """Return when the first conversation began and when the last one began or ended; None without any."""
        return self._database.run(_lifetime)

    def events(self) -> Iterator[tuple[ConversationEvent, str, str]]:
        """Yield every event, with its conversation's channel and session key, in order of time."""
        for row in self._database.stream(counts.transitions):
            yield row_to_event(row), row.channel, row.session_key

    def changes(self) -> Iterator[tuple[datetime, int]]:
        """Yield every moment at which a conversation began (1) or ended (-1), in order of time."""
        for row in self._database.stream(counts.begins_and_ends):
            yield row.moment, row.change


def _count_conversations(sql: Statements) -> Steps[int]:
    return int((yield Query(sql(counts.conversations))).one().conversations)


def _count_events_by_type(sql: Statements) -> Steps[dict[str, int]]:
    return {row.type: row.events for row in (yield Query(sql(counts.events_by_type)))}


def _lifetime(sql: Statements) -> Steps[tuple[datetime, datetime] | None]:
    row = (yield Query(sql(counts.lifetimes))).one()
    return None if row.begin is None else (row.begin, row.end)

"""All that happened in a database, in numbers and in order of time: what a replay shows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from lapse.models import ConversationEvent
from lapse.store import statements
from lapse.store.connection import Connection, Row, Rows
from lapse.store.database import Database
from lapse.store.rows import event_of


class Chronicle:
    """The conversations and events of one database; memory does not grow with their number."""

    def __init__(self, database: Database) -> None:
        """Read from this database; its schema must be there."""
        self._database = database

    def count_conversations(self) -> int:
        """Return how many conversations there are, open and closed."""
        return int(self._rows(statements.COUNT_CONVERSATIONS).one().conversations)

    def count_events_by_type(self) -> dict[str, int]:
        """Return how many events there are of each type; without zeros."""
        return {row.type: row.events for row in self._rows(statements.COUNT_EVENTS_BY_TYPE)}

    def each_event(self, on_event: Callable[[ConversationEvent, str, str], object]) -> None:
        """Call this with every event, and its conversation's channel and session key."""
        self._stream(statements.TRANSITIONS, lambda row: on_event(event_of(row), row.channel, row.session_key))

    def span(self) -> tuple[datetime, datetime] | None:
        """Return when the first conversation began and when the last one began or ended; None without any."""
        row = self._rows(statements.SPAN_OF_LIVES).one()
        return None if row.begin is None else (row.begin, row.end)

    def each_change(self, on_change: Callable[[datetime, int], object]) -> None:
        """Call this with every moment at which a conversation began (1) or ended (-1)."""
        self._stream(statements.BEGINS_AND_ENDS, lambda row: on_change(row.moment, row.change))

    def _stream(self, statement: Any, on_row: Callable[[Row], object]) -> None:
        def work(connection: Connection) -> None:
            for row in connection.stream(statement):
                on_row(row)

        self._database.transaction(work, retry=False)  # some rows may have been handed over before an error

    def _rows(self, statement: Any) -> Rows:
        return self._database.autocommit(lambda connection: connection.execute(statement))

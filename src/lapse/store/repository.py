"""ConversationRepository: conversations in and out of one database, a method for each operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from lapse.lifecycle import whole_seconds
from lapse.models import AnyId, Conversation, NextDeadlines
from lapse.store.database import Database
from lapse.store.operations import conversations, due
from lapse.store.purger import Purger


class ConversationRepository:
    """The store of one database, below the service: settings are resolved, arguments are checked."""

    def __init__(self, database: Database) -> None:
        """Use this database; its schema must be there."""
        self.database = database
        self.purger = Purger(database)

    def find_idle_conversations(self, idle_timeout: timedelta, limit: int = 100) -> list[Conversation]:
        """Return conversations that are idle now, the longest idle first; nothing is locked or changed.

        Raises:
            DatabaseError: the database refused, or cannot be reached; so do all methods.
        """
        return self.database.run(due.find_idle, whole_seconds(idle_timeout), limit, reads_only=True)

    def find_expired_conversations(self, limit: int = 100) -> list[Conversation]:
        """Return open conversations that are past their expiry, the longest first; nothing is locked or changed."""
        return self.database.run(due.find_expired, limit, reads_only=True)

    def next_deadlines(
        self, idle_timeout: timedelta, exclude: Mapping[str, Sequence[AnyId]], *, retry: bool = True
    ) -> NextDeadlines:
        """Return when each task has work, not counting the conversations that are excluded from it, by its name."""
        seconds = whole_seconds(idle_timeout)
        return self.database.run(due.next_deadlines, seconds, exclude, reads_only=True, retry=retry)

    def count_open_by_status(self) -> dict[str, int]:
        """Return how many conversations are in each open status; zeros included."""
        return self.database.run(due.count_open_by_status, reads_only=True)

    def count_active(self) -> int:
        """Return about how many conversations are active: `operations.due.count_active` says how exactly."""
        return self.database.run(due.count_active, reads_only=True, retry=False)

    def count_due(self, idle_timeout: timedelta) -> dict[str, int]:
        """Return how many conversations each task would end at this moment."""
        return self.database.run(due.count_due, whole_seconds(idle_timeout), reads_only=True)

    def is_empty(self) -> bool:
        """Tell whether the database holds no conversation at all."""
        return self.database.run(conversations.is_empty, reads_only=True)

"""Purging a database in batches, at a limited rate, until it is done or stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from lapse.errors import ConversationUnchangedError, InvalidInputError
from lapse.models import MIN_DATETIME, PurgeResult
from lapse.shutdown import STOP_GRACE_SECONDS, Interrupted, StopEvent
from lapse.store.database import Database
from lapse.store.limits import ended_by
from lapse.store.operations import purge as operations
from lapse.validation import MAX_PURGE_BATCH, check_purge_batch, check_purge_days, check_purge_rate


class Purger:
    """The purge of one database. Any number may run at once, beside messages and workers."""

    def __init__(self, database: Database) -> None:
        """Purge this one."""
        self._database = database

    def purge(
        self,
        closed_before_days: float,
        *,
        batch_size: int = MAX_PURGE_BATCH,
        max_rate: float | None = None,
        stop_event: StopEvent | None = None,
        on_batch: Callable[[PurgeResult], None] = lambda _done: None,
    ) -> PurgeResult:
        """Delete conversations that ended more than so many days ago, with their events; open ones never.

        Args:
            closed_before_days: by the clock of the database, read once.
            batch_size: conversations per transaction, 1 to 1,000.
            max_rate: conversations per second at most; default is no limit.
            stop_event: ends the purge after the batch in hand, which a stop signal waits five seconds for.
            on_batch: called after each batch with all that was done so far.

        Returns:
            What this purge deleted. A conversation that another transaction has locked is left to the next purge.

        Raises:
            InvalidInputError: an argument is not usable.
            ConversationRefusedError: a trigger or a constraint of the application's keeps what is old enough.
            DatabaseError: the database refused, or stayed out of reach; the batches before that stay done.
        """
        limit, max_rate = check_purge_batch(batch_size), check_purge_rate(max_rate)
        stop_event = StopEvent() if stop_event is None else stop_event
        if not isinstance(stop_event, StopEvent) or not callable(on_batch):
            raise InvalidInputError("a purge takes a StopEvent as stop_event, and a function as on_batch")
        if max_rate is not None:
            limit = min(limit, max(int(max_rate), 1))  # at most a second's conversations, so that it goes evenly
        before, done, cursor = self._moment(closed_before_days), operations.PurgedBatch(), MIN_DATETIME
        while not stop_event.is_set():
            begin = time.monotonic()
            try:
                with stop_event.interruptible(STOP_GRACE_SECONDS):
                    batch = ended_by(stop_event.is_set).run(self._delete, before, cursor, limit)
            except Interrupted:
                break
            if batch.claimed == limit and not batch.conversations:
                raise ConversationUnchangedError  # the next batch would be the same one
            done = done.plus(batch)
            on_batch(_result(before, done))
            if batch.claimed < limit:
                return _result(before, done)
            # From the last one on: what was deleted before it still stands in the index, as dead entries.
            cursor = batch.newest or cursor
            if max_rate is not None:
                stop_event.wait(begin + batch.claimed / max_rate - time.monotonic())
        return _result(before, done, is_complete=False)

    def preview(self, closed_before_days: float) -> PurgeResult:
        """Count what `purge` would delete now; nothing is locked or changed.

        Raises:
            InvalidInputError: the number of days is not usable.
            DatabaseError: the database refused, or cannot be reached.
        """
        before = self._moment(closed_before_days)
        return _result(before, self._database.run(operations.count_purgeable, before, MAX_PURGE_BATCH))

    def _delete(self, before: datetime, cursor: datetime, limit: int) -> operations.PurgedBatch:
        return self._database.run(operations.purge_batch, before, cursor, limit)

    def _moment(self, days: float) -> datetime:
        age = timedelta(days=check_purge_days(days))
        return self._database.run(operations.now) - age


def _result(before: datetime, done: operations.PurgedBatch, *, is_complete: bool = True) -> PurgeResult:
    return PurgeResult(
        closed_before=before,
        conversations=done.conversations,
        events=done.events,
        oldest=done.oldest,
        newest=done.newest,
        is_complete=is_complete,
    )

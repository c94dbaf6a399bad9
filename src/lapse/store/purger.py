"""Purging a database: batch after batch, at a pace, until a stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
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
            limit = min(limit, int(max_rate))  # a batch a second or more, so that it goes evenly
        done, after = PurgeResult(closed_before=self._moment(closed_before_days)), MIN_DATETIME
        while not stop_event.is_set():
            begin = time.monotonic()
            try:
                with stop_event.interruptible(STOP_GRACE_SECONDS):
                    batch = ended_by(stop_event.is_set).run(self._delete, done.closed_before, after, limit)
            except Interrupted:
                break
            if batch.claimed == limit and not batch.conversations:
                raise ConversationUnchangedError  # the next batch would be the same one
            done = replace(
                done,
                conversations=done.conversations + batch.conversations,
                events=done.events + batch.events,
                oldest=done.oldest or batch.oldest,
                newest=batch.newest or done.newest,
            )
            on_batch(done)
            if batch.claimed < limit:
                return done
            # From the last one on: what was deleted before it still stands in the index, as dead entries.
            after = batch.newest or after
            if max_rate is not None:
                stop_event.wait(begin + batch.claimed / max_rate - time.monotonic())
        return replace(done, is_complete=False)

    def preview(self, closed_before_days: float) -> PurgeResult:
        """Count what `purge` would delete now; nothing is locked or changed.

        Raises:
            InvalidInputError: the number of days is not usable.
            DatabaseError: the database refused, or cannot be reached.
        """
        before = self._moment(closed_before_days)
        counted = self._database.run(operations.count_purgeable, before, MAX_PURGE_BATCH)
        return PurgeResult(
            closed_before=before,
            conversations=counted.conversations,
            events=counted.events,
            oldest=counted.oldest,
            newest=counted.newest,
        )

    def _delete(self, before: datetime, after: datetime, limit: int) -> operations.PurgedBatch:
        return self._database.run(operations.purge_batch, before, after, limit)

    def _moment(self, days: float) -> datetime:
        age = timedelta(days=check_purge_days(days))
        return self._database.run(operations.now) - age

"""Purging: closed conversations that are old enough go, with their events, batch after batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from lapse.errors import ConversationUnchangedError, InvalidInputError
from lapse.models import PurgeResult
from lapse.shutdown import STOP_GRACE_SECONDS, Interrupted, StopEvent
from lapse.store import purge_statements
from lapse.store.connection import Connection, Row, Rows
from lapse.store.database import Database
from lapse.store.limits import ended_by
from lapse.store.statements import BEGINNING_OF_TIME
from lapse.validation import MAX_PURGE_BATCH, check_purge_batch, check_purge_days, check_purge_rate


class Batch(NamedTuple):
    """What one batch did: the columns of its statement on PostgreSQL, in their order."""

    claimed: int
    conversations: int
    events: int
    oldest: datetime | None
    newest: datetime | None


class Purger:
    """The purge of one database. Any number may run at once, beside messages and workers."""

    def __init__(self, database: Database) -> None:
        """Build the statements once."""
        self._database = database
        self._batches = {
            form: purge_statements.purge_statements(database.dialect, is_distributed=form) for form in (False, True)
        }

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
        done, after = PurgeResult(closed_before=self._moment(closed_before_days)), BEGINNING_OF_TIME
        while not stop_event.is_set():
            begin = time.monotonic()
            try:
                with stop_event.interruptible(STOP_GRACE_SECONDS):
                    batch = ended_by(stop_event.is_set, self._delete, done.closed_before, after, limit)
            except Interrupted:
                break
            if batch.claimed == limit and not batch.conversations:
                raise ConversationUnchangedError  # the next batch would be the same one
            done = _together(done, batch)
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
        found, after = PurgeResult(closed_before=self._moment(closed_before_days)), BEGINNING_OF_TIME
        while True:
            values = {"before": found.closed_before, "after": after, "limit": MAX_PURGE_BATCH}
            end = self._read(purge_statements.SLICE_END, values).one_or_none()
            until = end.ended_at if end else found.closed_before
            found = _together(found, self._read(purge_statements.COUNT_SLICE, values | {"until": until}).one())
            if end is None:
                return found
            after = until

    def _moment(self, days: float) -> datetime:
        age = timedelta(days=check_purge_days(days))
        return self._database.autocommit(self._database.read_clock) - age

    def _read(self, statement: Any, values: dict[str, Any]) -> Rows:
        return self._database.autocommit(lambda connection: connection.execute(statement, values))

    def _delete(self, before: datetime, after: datetime, limit: int) -> Batch:
        """Run one batch and return what it did."""
        values = {"before": before, "after": after, "limit": limit}
        statements = self._batches[self._database.is_distributed()]

        def work(connection: Connection) -> Batch:
            results = [connection.execute(statement, values) for statement in statements]
            if len(results) == 1:
                return Batch(*results[0].one())
            claimed, events, moments = results[0].one().claimed, len(results[1]), [row.ended_at for row in results[2]]
            if len(moments) < claimed:
                raise ConversationUnchangedError  # the transaction brings the events back
            return Batch(claimed, len(moments), events, min(moments, default=None), max(moments, default=None))

        # A single statement is a transaction already, and one round trip instead of three.
        run = self._database.autocommit if len(statements) == 1 else self._database.transaction
        return run(work)


def _together(done: PurgeResult, more: Batch | Row) -> PurgeResult:
    """Return what was done with what came after it."""
    return replace(
        done,
        conversations=done.conversations + more.conversations,
        events=done.events + more.events,
        oldest=done.oldest or more.oldest,
        newest=more.newest or done.newest,
    )

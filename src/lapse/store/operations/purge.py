"""Purging: batches of closed conversations that are old enough, with their events."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from lapse.errors import ConversationUnchangedError
from lapse.models import MIN_DATETIME
from lapse.store.operations.steps import CLOCK, Query, Steps, Transaction
from lapse.store.statements import Statements
from lapse.store.statements import purge as statements


class PurgedBatch(NamedTuple):
    """What one batch deleted, or would delete: the columns of its statement on PostgreSQL, in their order."""

    claimed: int = 0
    conversations: int = 0
    events: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None

    def plus(self, later: PurgedBatch) -> PurgedBatch:
        """Return what this and a later batch deleted together."""
        return PurgedBatch(
            self.claimed + later.claimed,
            self.conversations + later.conversations,
            self.events + later.events,
            self.oldest or later.oldest,
            later.newest or self.newest,
        )


def now(sql: Statements) -> Steps[datetime]:
    """Return the present moment by the clock that rules in this database."""
    moment: datetime = yield CLOCK
    return moment


def purge_batch(sql: Statements, before: datetime, cursor: datetime, limit: int) -> Steps[PurgedBatch]:
    """Delete at most `limit` conversations that ended from `cursor` on and before `before`, the oldest first.

    Raises:
        ConversationRefusedError: a trigger or a constraint of the application's keeps one of them.
    """
    values = {"before": before, "cursor": cursor, "limit": limit}
    if sql.shape.dialect != "sqlite":
        # A single statement is a transaction already, and one round trip instead of three.
        return PurgedBatch(*(yield Query(sql(statements.delete_batch), values)).one())

    def work() -> Steps[PurgedBatch]:
        claimed = (yield Query(sql(statements.count_claimed), values)).one().claimed
        events = yield Query(sql(statements.delete_claimed_events), values)
        moments = [row.ended_at for row in (yield Query(sql(statements.delete_claimed), values))]
        if len(moments) < claimed:
            raise ConversationUnchangedError  # the transaction brings the events back
        return PurgedBatch(claimed, len(moments), len(events), min(moments, default=None), max(moments, default=None))

    batch: PurgedBatch = yield Transaction(work)
    return batch


def count_purgeable(sql: Statements, before: datetime, slice_size: int) -> Steps[PurgedBatch]:
    """Count what a purge would delete, in slices of about this size; nothing is locked or changed."""
    total, cursor = PurgedBatch(), MIN_DATETIME
    while True:
        values = {"before": before, "cursor": cursor, "limit": slice_size}
        end = (yield Query(sql(statements.slice_end), values)).one_or_none()
        until = end.ended_at if end else before
        part = (yield Query(sql(statements.count_slice), values | {"until": until})).one()
        total = total.plus(PurgedBatch(part.conversations, *part))
        if end is None:
            return total
        cursor = until

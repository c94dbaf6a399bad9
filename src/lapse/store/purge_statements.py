"""The statements of a purge, written once: which closed conversations are old enough, and how a batch is deleted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lapse.store.schema import conversation_events as events
from lapse.store.schema import conversations, is_closed
from lapse.store.statements import LIMIT
from lapse.store.sweep_statements import AFTER
from lapse.store.types import UtcDateTime

c = conversations.c
BEFORE: sa.BindParameter[datetime] = sa.bindparam("before", type_=UtcDateTime)
"""A bound moment, the same for all batches: a slow purge must not run after what grows old meanwhile."""
ENDED_BEFORE = is_closed & (c.ended_at < BEFORE)


def purge_statements(dialect: str, *, is_distributed: bool = False) -> list[Any]:
    """Return the statements of one batch: one on PostgreSQL, three in one transaction on SQLite.

    They take at most `limit` conversations that ended from `after` on and before `before`, the oldest first, and
    delete them with their events. The last one returns per conversation, or in total, what it deleted.
    """
    if dialect == "postgresql":
        claim = _claim()
        if not is_distributed:
            # Citus has no row locks over several shards. The DELETE rechecks, and only what it deleted takes its
            # events along.
            claim = claim.with_for_update(skip_locked=True)
        claimed = claim.cte("claimed")
        deleted = _delete_claimed(claimed).returning(c.owner_id, c.conv_id, c.ended_at).cte("deleted")
        deleted_events = (
            sa.delete(events)
            .where(events.c.owner_id == deleted.c.owner_id, events.c.conv_id == deleted.c.conv_id)
            .returning(events.c.version)
            .cte("deleted_events")
        )
        return [
            sa.select(
                _count(claimed).label("claimed"),
                _count(deleted).label("conversations"),
                _count(deleted_events).label("events"),
                sa.select(sa.func.min(claimed.c.ended_at)).scalar_subquery().label("oldest"),
                sa.select(sa.func.max(claimed.c.ended_at)).scalar_subquery().label("newest"),
            )
        ]
    # The same rows twice: the order is total, and the transaction holds the only write lock. By rowid, since SQLite
    # looks for a pair of values in a list by the first of them only, and reads all that an owner has.
    claimed = _claim().add_columns(_rowid("conversations")).order_by(c.owner_id, c.conv_id).cte("claimed")
    among = events.alias("among")
    of_claimed = claimed.join(among, (among.c.owner_id == claimed.c.owner_id) & (among.c.conv_id == claimed.c.conv_id))
    return [
        sa.select(_count(claimed).label("claimed")),
        sa.delete(events)
        .where(_rowid("conversation_events").in_(sa.select(_rowid("among")).select_from(of_claimed)))
        .returning(events.c.version),
        sa.delete(conversations)
        .where(_rowid("conversations").in_(sa.select(claimed.c.rowid)), is_closed)
        .returning(c.ended_at),
    ]


def _rowid(table: str) -> Any:
    return sa.literal_column(f"{table}.rowid").label("rowid")


def _claim() -> sa.Select[Any]:
    return (
        sa.select(c.owner_id, c.conv_id, c.version, c.status, c.ended_at)
        .where(ENDED_BEFORE, c.ended_at >= AFTER)
        .order_by(c.ended_at)
        .limit(LIMIT)
    )


def _delete_claimed(claimed: sa.CTE) -> Any:
    """Recheck everything: nothing but the closed conversation that was claimed is deleted.

    The status is compared with the claimed one and not with the list: that would match the partial index, by which
    the database might read everything that is old enough instead of the batch.
    """
    return sa.delete(conversations).where(
        c.owner_id == claimed.c.owner_id,
        c.conv_id == claimed.c.conv_id,
        c.version == claimed.c.version,
        c.status == claimed.c.status,
        c.ended_at == claimed.c.ended_at,
    )


def _count(source: sa.CTE) -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.count()).select_from(source).scalar_subquery()


# --- counting what a purge would delete: in slices, each from one moment to another one -------------------------------

_SLICE = ENDED_BEFORE & (c.ended_at > AFTER)

SLICE_END = sa.select(c.ended_at).where(_SLICE).order_by(c.ended_at).offset(LIMIT).limit(1)
"""The moment up to which `limit` conversations or somewhat more ended; no row where there are not so many.

Apart from the count, for a planner that does not know this moment would read the whole table for it.
"""

_events_of_one = (
    sa.select(sa.func.count())
    .select_from(events)
    .where(events.c.owner_id == c.owner_id, events.c.conv_id == c.conv_id)
    .correlate(conversations)
    .scalar_subquery()
)
COUNT_SLICE = sa.select(
    sa.func.count().label("conversations"),
    sa.cast(sa.func.coalesce(sa.func.sum(_events_of_one), 0), sa.BigInteger).label("events"),
    sa.func.min(c.ended_at).label("oldest"),
    sa.func.max(c.ended_at).label("newest"),
).where(_SLICE, c.ended_at <= sa.bindparam("until", type_=UtcDateTime))

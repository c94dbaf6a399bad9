"""Statements of a purge: which closed conversations are old enough, and how a batch is deleted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lapse.store.statements.parameters import CURSOR, LIMIT
from lapse.store.tables import Tables
from lapse.store.types import UtcDateTime

BEFORE: sa.BindParameter[datetime] = sa.bindparam("before", type_=UtcDateTime)
"""A bound moment, the same for all batches: a slow purge must not run after what grows old meanwhile."""


def _ended_before(tables: Tables) -> sa.ColumnElement[bool]:
    return tables.is_closed & (tables.c.ended_at < BEFORE)


def _claim(tables: Tables) -> sa.Select[Any]:
    c = tables.c
    return (
        sa.select(c.owner_id, c.conv_id, c.version, c.status, c.ended_at)
        .where(_ended_before(tables), c.ended_at >= CURSOR)
        .order_by(c.ended_at)
        .limit(LIMIT)
    )


def delete_batch(tables: Tables) -> Any:
    """PostgreSQL: delete at most `limit` conversations with their events, and return the totals.

    Those that ended from `cursor` on and before `before`, the oldest first.
    """
    c, events = tables.c, tables.events
    claim = _claim(tables)
    if not tables.shape.is_distributed:
        # Citus has no row locks over several shards. The DELETE rechecks, and only what it deleted takes its events
        # along.
        claim = claim.with_for_update(skip_locked=True)
    claimed = claim.cte("claimed")
    deleted = _delete_claimed(tables, claimed).returning(c.owner_id, c.conv_id, c.ended_at).cte("deleted")
    deleted_events = (
        sa.delete(events)
        .where(events.c.owner_id == deleted.c.owner_id, events.c.conv_id == deleted.c.conv_id)
        .returning(events.c.version)
        .cte("deleted_events")
    )
    return sa.select(
        _count(claimed).label("claimed"),
        _count(deleted).label("conversations"),
        _count(deleted_events).label("events"),
        sa.select(sa.func.min(claimed.c.ended_at)).scalar_subquery().label("oldest"),
        sa.select(sa.func.max(claimed.c.ended_at)).scalar_subquery().label("newest"),
    )


def _delete_claimed(tables: Tables, claimed: sa.CTE) -> Any:
    """Recheck everything: nothing but the closed conversation that was claimed is deleted.

    The status is compared with the claimed one and not with the list: that would match the partial index, by which
    the database might read everything that is old enough instead of the batch.
    """
    c = tables.c
    return sa.delete(tables.conversations).where(
        c.owner_id == claimed.c.owner_id,
        c.conv_id == claimed.c.conv_id,
        c.version == claimed.c.version,
        c.status == claimed.c.status,
        c.ended_at == claimed.c.ended_at,
    )


def _count(source: sa.CTE) -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.count()).select_from(source).scalar_subquery()


# --- SQLite: three statements in one transaction, of the same rows, for it holds the only write lock ------------------


def _claim_rowids(tables: Tables) -> sa.CTE:
    # By rowid, since SQLite looks for a pair of values in a list by the first of them only, and reads all that an owner
    # has. The order is total.
    claim = _claim(tables).add_columns(_rowid("conversations"))
    return claim.order_by(tables.c.owner_id, tables.c.conv_id).cte("claimed")


def _rowid(table: str) -> Any:
    return sa.literal_column(f"{table}.rowid").label("rowid")


def count_claimed(tables: Tables) -> Any:
    """Count the conversations of a batch."""
    return sa.select(_count(_claim_rowids(tables)).label("claimed"))


def delete_claimed_events(tables: Tables) -> Any:
    """Delete the events of a batch; a row for each."""
    claimed, among = _claim_rowids(tables), tables.events.alias("among")
    joined = claimed.join(among, (among.c.owner_id == claimed.c.owner_id) & (among.c.conv_id == claimed.c.conv_id))
    rowids = sa.select(_rowid("among")).select_from(joined)
    events = tables.events
    return sa.delete(events).where(_rowid("conversation_events").in_(rowids)).returning(events.c.version)


def delete_claimed(tables: Tables) -> Any:
    """Delete the conversations of a batch; a row for each, with when it ended."""
    rowids = sa.select(_claim_rowids(tables).c.rowid)
    deleted = sa.delete(tables.conversations).where(_rowid("conversations").in_(rowids), tables.is_closed)
    return deleted.returning(tables.c.ended_at)


# --- counting what a purge would delete: in slices, each from one moment to another one -------------------------------


def _slice(tables: Tables) -> sa.ColumnElement[bool]:
    return _ended_before(tables) & (tables.c.ended_at > CURSOR)


def slice_end(tables: Tables) -> Any:
    """Select the moment up to which `limit` conversations or somewhat more ended; no row where there are not so many.

    Apart from the count, for a planner that does not know this moment would read the whole table for it.
    """
    ended_at = tables.c.ended_at
    return sa.select(ended_at).where(_slice(tables)).order_by(ended_at).offset(LIMIT).limit(1)


def count_slice(tables: Tables) -> Any:
    """Count what ended up to `until`, with its events."""
    c, events = tables.c, tables.events
    events_of_one = (
        sa.select(sa.func.count())
        .select_from(events)
        .where(events.c.owner_id == c.owner_id, events.c.conv_id == c.conv_id)
        .correlate(tables.conversations)
        .scalar_subquery()
    )
    return sa.select(
        sa.func.count().label("conversations"),
        sa.cast(sa.func.coalesce(sa.func.sum(events_of_one), 0), sa.BigInteger).label("events"),
        sa.func.min(c.ended_at).label("oldest"),
        sa.func.max(c.ended_at).label("newest"),
    ).where(_slice(tables), c.ended_at <= sa.bindparam("until", type_=UtcDateTime))

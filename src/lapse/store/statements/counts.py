"""Statements that count what is open, and what a replay has left behind."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lapse.store.statements.parameters import LIMIT
from lapse.store.tables import Tables


def open_by_status(tables: Tables) -> Any:
    """Count open conversations by status."""
    counted = sa.select(tables.c.status, sa.func.count().label("conversations"))
    return counted.where(tables.is_open).group_by(tables.c.status)


def active(tables: Tables) -> Any:
    """Count active conversations up to a limit.

    In the order of the partial index, so that it is what is read: without an order the planner may prefer the table,
    and pass all that is closed before it finds anything active.
    """
    some = sa.select(tables.c.idle_check_at).where(tables.is_active).order_by(tables.c.idle_check_at).limit(LIMIT)
    return sa.select(sa.func.count().label("conversations")).select_from(some.subquery("some_active"))


def estimate_active(tables: Tables) -> Any:
    """PostgreSQL: what the latest VACUUM or ANALYZE found in the index of what is active, or in its partitions."""
    pg_class = sa.table("pg_class", sa.column("oid"), sa.column("reltuples"))
    pg_inherits = sa.table("pg_inherits", sa.column("inhrelid"), sa.column("inhparent"))
    index = sa.func.to_regclass(sa.literal(tables.idle_check_index.name, sa.Text))
    rows = sa.func.coalesce(sa.func.sum(sa.func.greatest(pg_class.c.reltuples, 0)), 0)
    partitions = sa.select(pg_inherits.c.inhrelid).where(pg_inherits.c.inhparent == index)
    return sa.select(sa.cast(rows, sa.BigInteger).label("conversations")).where(
        (pg_class.c.oid == index) | pg_class.c.oid.in_(partitions)
    )


def conversations(tables: Tables) -> Any:
    """Count all conversations."""
    return sa.select(sa.func.count().label("conversations")).select_from(tables.conversations)


def events_by_type(tables: Tables) -> Any:
    """Count events by type."""
    return sa.select(tables.events.c.type, sa.func.count().label("events")).group_by(tables.events.c.type)


def lifetimes(tables: Tables) -> Any:
    """Select when the first conversation began and when the last one began or ended."""
    c = tables.c
    end = sa.func.max(sa.func.coalesce(c.ended_at, c.started_at))
    return sa.select(sa.func.min(c.started_at).label("begin"), end.label("end"))


def begins_and_ends(tables: Tables) -> Any:
    """Select each moment at which a conversation began (1) or ended (-1).

    Ends first: a conversation that opens when another ends is not open at once with it.
    """
    c = tables.c
    return sa.union_all(
        sa.select(c.started_at.label("moment"), sa.literal_column("1", sa.Integer).label("change")),
        sa.select(c.ended_at, sa.literal_column("-1", sa.Integer)).where(c.ended_at.is_not(None)),
    ).order_by("moment", "change")


def transitions(tables: Tables) -> Any:
    """Select every event in order of time, with its conversation's channel and session key."""
    c, e = tables.c, tables.events.c
    return (
        sa.select(tables.events, c.channel, c.session_key)
        .join(tables.conversations, (c.owner_id == e.owner_id) & (c.conv_id == e.conv_id))
        .order_by(sa.func.coalesce(e.deadline, e.occurred_at), e.occurred_at, e.conv_id, e.version)
    )

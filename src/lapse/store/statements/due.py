"""Statements that find and count what is due, and say when something is due next; nothing is locked."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from lapse.effects import WORKER
from lapse.store.statements.parameters import LIMIT, MAX_INTEGER
from lapse.store.statements.sweeps import (
    SILENT,
    is_armed_longer,
    is_expired,
    is_idle,
    is_idle_check_due,
    is_looked_at,
)
from lapse.store.tables import Tables
from lapse.store.types import UtcDateTime, UtcDateTimeOrText


def _select_due(tables: Tables, due: sa.ColumnElement[bool], order_by: sa.ColumnElement[Any]) -> Any:
    return sa.select(*tables.conversation).where(due).order_by(order_by).limit(LIMIT)


def find_expired(tables: Tables) -> Any:
    """Select what an expired sweep would end, the longest overdue first."""
    return _select_due(tables, is_expired(tables, tables.now), tables.c.expires_at)


def find_idle(tables: Tables) -> Any:
    """Select what an idle sweep would pause, the longest idle first."""
    # The second condition is the one that has an index.
    due = is_idle(tables, tables.now) & is_looked_at(tables, tables.now)
    return _select_due(tables, due, tables.latest_activity)


def count_due(tables: Tables) -> Any:
    """Count what is due: idle, expired."""
    due = {
        "idle": is_idle(tables, tables.now) & is_looked_at(tables, tables.now),
        "expired": is_expired(tables, tables.now),
    }
    counted = sa.select(sa.func.count()).select_from(tables.conversations)
    return sa.select(*(counted.where(condition).scalar_subquery().label(name) for name, condition in due.items()))


def count_due_up_to(tables: Tables) -> Any:
    """Count what is due, each kind up to the limit: for numbers that may be large, of which little needs to be known.

    In the order of the partial indexes, so that they are what is read.
    """
    c, now = tables.c, tables.now
    is_checked = is_idle_check_due(tables, now)
    due = {
        "expired": (is_expired(tables, now), c.expires_at),
        "idle": (is_idle(tables, now) & is_checked, c.idle_check_at),
        "armed_longer": (is_idle(tables, now) & ~is_checked & is_armed_longer(tables), c.idle_timeout_seconds),
    }
    return sa.select(
        *(
            sa.select(sa.func.count())
            .select_from(sa.select(column).where(condition).order_by(column).limit(LIMIT).subquery(name))
            .scalar_subquery()
            .label(name)
            for name, (condition, column) in due.items()
        )
    )


def next_deadlines(tables: Tables) -> Any:
    """Select when a sweep has work again, with the present moment: a look at the ends of three partial indexes."""
    c = tables.c

    def end_of(end: sa.ColumnElement[Any], name: str, scope: sa.ColumnElement[bool], exclude: str) -> sa.Select[Any]:
        return sa.select(end.label(name)).where(scope, ~tables.id_in(exclude))

    def first(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.func.min(column, type_=UtcDateTimeOrText)

    # Not what others may have written: in SQLite, numbers and empty texts come before all times, texts after numbers.
    is_checked = tables.is_active & tables.is_time(c.idle_check_at)
    is_armed = tables.is_active & (c.idle_timeout_seconds <= sa.literal(MAX_INTEGER, sa.BigInteger))
    is_ending = tables.is_open & tables.is_time(c.expires_at)
    ends = {
        "idle": end_of(first(c.idle_check_at), "idle", is_checked, "exclude_idle"),
        "armed_seconds": end_of(sa.func.max(c.idle_timeout_seconds), "armed_seconds", is_armed, "exclude_idle"),
        "expired": end_of(first(c.expires_at), "expired", is_ending, "exclude_expired"),
    }
    if tables.shape.dialect == "sqlite":
        # Nested: of joined ones SQLite reads the whole indexes.
        return sa.select(*(end.scalar_subquery().label(name) for name, end in ends.items()), tables.now.label("now"))
    # Joined, not nested: a distributed database asks each of them of all its nodes.
    idle, armed, expired = (end.subquery(f"{name}_end") for name, end in ends.items())
    joined = idle.join(armed, sa.true()).join(expired, sa.true())
    return sa.select(idle.c.idle, armed.c.armed_seconds, expired.c.expired, tables.now.label("now")).select_from(joined)


# --- before a first cycle on an adopted table -------------------------------------------------------------------------


def first_notified(tables: Tables) -> Any:
    """Select one event that a worker wrote, other than silently.

    A worker that ended its backlog silently, and was stopped half-way, has not begun: the next one must not end the
    rest aloud because of it.
    """
    e = tables.events.c
    return sa.select(e.version).where(e.actor == WORKER, e.data[SILENT].as_string().is_(None)).limit(1)


def first_ended_at(tables: Tables) -> Any:
    """PostgreSQL: select when a worker first ended something; where none has, the present moment."""
    e = tables.events.c
    now = sa.func.clock_timestamp(type_=UtcDateTime)
    first = sa.func.coalesce(sa.func.min(e.occurred_at), now, type_=UtcDateTime)
    return sa.select(first.label("moment")).where(e.actor == WORKER)

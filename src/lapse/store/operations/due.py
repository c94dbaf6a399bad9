"""What is due, how much is open, and when something is due next; read-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from lapse.lifecycle import ConversationStatus
from lapse.models import AnyId, Conversation, NextDeadlines
from lapse.store.operations.conversations import find
from lapse.store.operations.steps import CLOCK, Query, Steps
from lapse.store.operations.sweeps import EXPIRED_CONVERSATIONS, IDLE_CONVERSATIONS, TASKS
from lapse.store.statements import Statements, counts, due
from lapse.store.types import deadline_of

EXACT_UP_TO = {"postgresql": 10_000, "sqlite": 100_000}
"""Active conversations that are counted one by one: some milliseconds."""


def find_idle(sql: Statements, idle_timeout_seconds: int, limit: int) -> Steps[list[Conversation]]:
    """Return conversations that are idle now, the longest idle first."""
    return (yield from find(Query(sql(due.find_idle), {"idle_timeout": idle_timeout_seconds, "limit": limit})))


def find_expired(sql: Statements, limit: int) -> Steps[list[Conversation]]:
    """Return open conversations that are past their expiry, the longest first."""
    return (yield from find(Query(sql(due.find_expired), {"limit": limit})))


def count_due(sql: Statements, idle_timeout_seconds: int) -> Steps[dict[str, int]]:
    """Return how many conversations each task would end at this moment."""
    row = (yield Query(sql(due.count_due), {"idle_timeout": idle_timeout_seconds})).one()
    return {IDLE_CONVERSATIONS: row.idle, EXPIRED_CONVERSATIONS: row.expired}


def count_due_up_to(sql: Statements, idle_timeout_seconds: int, most: int) -> Steps[int]:
    """Return how many conversations a first cycle would end; where they are more than `most`, any number above it."""
    values = {"idle_timeout": idle_timeout_seconds, "limit": most + 1}
    row = (yield Query(sql(due.count_due_up_to), values)).one()
    return int(row.expired + row.idle + row.armed_longer)


def next_deadlines(
    sql: Statements, idle_timeout_seconds: int, exclude: Mapping[str, Sequence[AnyId]]
) -> Steps[NextDeadlines]:
    """Return when each task has work, not counting the conversations that are excluded from it."""
    values = {
        "exclude_idle": list(exclude.get(IDLE_CONVERSATIONS, ())),
        "exclude_expired": list(exclude.get(EXPIRED_CONVERSATIONS, ())),
    }
    row = (yield Query(sql(due.next_deadlines), values)).one_or_none()
    if row is None:  # there are no tables
        return NextDeadlines(due_at=dict.fromkeys(TASKS), now=(yield CLOCK))
    idle = deadline_of(row.idle, row.now)
    if (row.armed_seconds or 0) > idle_timeout_seconds:
        # Armed with a longer timeout than today's: it may be idle already, whatever its idle check says.
        overdue = row.now - timedelta(microseconds=1)
        idle = min(idle or overdue, overdue)
    due_at = {IDLE_CONVERSATIONS: idle, EXPIRED_CONVERSATIONS: deadline_of(row.expired, row.now)}
    return NextDeadlines(due_at=due_at, now=row.now)


def count_open_by_status(sql: Statements) -> Steps[dict[str, int]]:
    """Return how many conversations are in each open status; zeros included."""
    counted = {row.status: row.conversations for row in (yield Query(sql(counts.open_by_status)))}
    return {status.value: counted.get(status.value, 0) for status in ConversationStatus.open_statuses()}


def count_active(sql: Statements) -> Steps[int]:
    """Return about how many conversations are active, in a time that does not grow with them.

    Exact up to `EXACT_UP_TO`. Where there are more, PostgreSQL's own estimate, as old as its latest VACUUM or ANALYZE;
    without one (SQLite, or Citus, whose coordinator keeps none) that number and one: "more than".
    """
    limit = EXACT_UP_TO[sql.shape.dialect] + 1
    counted = int((yield Query(sql(counts.active), {"limit": limit})).one().conversations)
    if counted < limit or sql.shape.dialect != "postgresql":
        return counted
    return max(counted, int((yield Query(sql(counts.estimate_active))).one().conversations))


# --- before a first cycle on an adopted table -------------------------------------------------------------------------


def has_swept_before(sql: Statements) -> Steps[bool]:
    """Tell whether a worker has ended anything here, other than silently."""
    return bool((yield Query(sql(due.first_notified))))


def first_swept_at(sql: Statements) -> Steps[datetime]:
    """Return when a worker first ended something here; where none has, the present moment."""
    row: Any = (yield Query(sql(due.first_ended_at))).one()
    moment: datetime = row.moment
    return moment

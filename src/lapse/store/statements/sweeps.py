"""Statements of sweeps: what is due, and how one batch of it makes its transition or is re-armed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lapse.effects import WORKER
from lapse.lifecycle import ConversationStatus, EventType
from lapse.store.statements.parameters import CURSOR, IDLE_TIMEOUT, LIMIT
from lapse.store.tables import BOUND_NOW, Moment, Tables
from lapse.store.types import UtcDateTime

SILENT = "silent"
"""Key in an event's data: true where nobody should be notified of the event."""
SILENT_BEFORE: sa.BindParameter[datetime] = sa.bindparam("silent_before", type_=UtcDateTime)
"""Conversations whose deadline is before this moment end silently; NULL: none."""
_CTID: sa.Label[Any] = sa.literal_column("conversations.ctid").label("ctid")
"""The physical location of this version of a row on PostgreSQL."""


def is_expired(tables: Tables, now: Moment) -> sa.ColumnElement[bool]:
    """Return whether a conversation is open, and past its expiry."""
    return tables.is_open & (tables.c.expires_at < now) & tables.is_time(tables.c.expires_at)


def is_idle(tables: Tables, now: Moment) -> sa.ColumnElement[bool]:
    """Return whether a conversation is active, without activity for longer than the idle timeout, and not expired."""
    is_silent = tables.latest_activity < tables.plus_seconds(now, -IDLE_TIMEOUT)
    return tables.is_active & is_silent & (tables.effective_expires_at >= now)


def is_looked_at(tables: Tables, now: Moment) -> sa.ColumnElement[bool]:
    """Return whether one of the two idle sweeps checks an active conversation."""
    return is_idle_check_due(tables, now) | is_armed_longer(tables)


def is_idle_check_due(tables: Tables, now: Moment) -> sa.ColumnElement[bool]:
    """Return whether the next idle check is due."""
    return (tables.c.idle_check_at < now) & tables.is_time(tables.c.idle_check_at)


def is_armed_longer(tables: Tables) -> sa.ColumnElement[bool]:
    """Return whether the next idle check was computed from a longer idle timeout than this one."""
    return tables.c.idle_timeout_seconds > IDLE_TIMEOUT


def _follows_cursor(tables: Tables, deadline: Moment) -> sa.ColumnElement[bool]:
    """Return whether a batch goes on here.

    The second column decides nothing: it keeps the planner from taking both ends for a range. Of a range it expects one
    row in two hundred where it has no statistics yet, and then sorts all that is due for each batch, in place of
    reading the index in order.
    """
    return sa.tuple_(deadline, tables.c.owner_id) >= sa.tuple_(CURSOR, tables.min_owner_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """Which rows a sweep checks, in which order, which of them make the transition, and what it writes."""

    scope: sa.ColumnElement[bool]
    """The condition of a partial index."""
    due: sa.ColumnElement[bool]
    order_by: sa.ColumnElement[Any]
    makes_transition: sa.ColumnElement[bool]
    deadline: Moment
    to_status: ConversationStatus
    event_type: EventType
    values: dict[str, Any]


Specify = Callable[[Tables, Moment], SweepSpec]
"""Makes the specification of one kind of sweep; the moment is the present."""


def expired(tables: Tables, now: Moment) -> SweepSpec:
    """End what is past its expiry."""
    expires_at = tables.c.expires_at
    return SweepSpec(
        scope=tables.is_open,
        due=(expires_at < now) & _follows_cursor(tables, expires_at),
        order_by=expires_at,
        makes_transition=sa.true(),
        deadline=expires_at,
        to_status=ConversationStatus.EXPIRED,
        event_type=EventType.EXPIRED,
        values={"ended_at": now},
    )


def _idle(tables: Tables, now: Moment, due: sa.ColumnElement[bool], order_by: sa.ColumnElement[Any]) -> SweepSpec:
    activity = tables.latest_activity
    next_check = sa.case(
        (is_idle(tables, now), tables.c.idle_check_at),
        # Expiry has passed and ends it at the expired task's next run: no need to be in the way until then.
        (tables.c.expires_at < now, tables.plus_seconds(now, IDLE_TIMEOUT)),
        else_=tables.plus_seconds(tables.rearm_from(now), IDLE_TIMEOUT),
    )
    return SweepSpec(
        scope=tables.is_active,
        due=due,
        order_by=order_by,
        makes_transition=is_idle(tables, now),
        deadline=tables.plus_seconds(activity, IDLE_TIMEOUT),
        to_status=ConversationStatus.IDLE_TIMEOUT,
        event_type=EventType.PAUSED,
        values={"idle_check_at": next_check, "idle_timeout_seconds": IDLE_TIMEOUT},
    )


def idle(tables: Tables, now: Moment) -> SweepSpec:
    """Pause what is idle of the conversations whose idle check is due; re-arm the others."""
    idle_check_at = tables.c.idle_check_at
    return _idle(tables, now, (idle_check_at < now) & _follows_cursor(tables, idle_check_at), idle_check_at)


def armed_longer(tables: Tables, now: Moment) -> SweepSpec:
    """Pause what is idle of the conversations that were armed with a longer idle timeout, whatever their idle check."""
    return _idle(tables, now, is_armed_longer(tables), tables.c.idle_timeout_seconds)


def claim_filter(tables: Tables, *, is_among: bool) -> sa.ColumnElement[bool]:
    """Return the condition that a batch takes only the conversations `ids`, or leaves them out."""
    return tables.id_in("ids") if is_among else ~tables.id_in("ids")


# --- one batch --------------------------------------------------------------------------------------------------------


def _now(tables: Tables) -> Moment:
    # Citus refuses `now()` where rows are written, in CASE and in RETURNING.
    return BOUND_NOW if tables.shape.is_distributed else tables.now


def select_due_ids(tables: Tables, specify: Specify, is_among: bool = False) -> Any:
    """Select the ids that a batch would claim; nothing is locked."""
    spec = specify(tables, _now(tables))
    return (
        sa.select(tables.c.conv_id)
        .where(spec.scope, spec.due, claim_filter(tables, is_among=is_among))
        .order_by(spec.order_by)
        .limit(LIMIT)
    )


def _claim(tables: Tables, spec: SweepSpec, *, is_among: bool) -> sa.Select[Any]:
    c = tables.c
    return (
        sa.select(
            c.owner_id,
            c.conv_id,
            c.version,
            c.status.label("from_status"),
            spec.order_by.label("sort_key"),
            spec.makes_transition.label("makes_transition"),
            spec.deadline.label("deadline"),
        )
        .where(spec.scope, spec.due, claim_filter(tables, is_among=is_among))
        .order_by(spec.order_by)
        .limit(LIMIT)
    )


def sweep_batch(tables: Tables, specify: Specify, is_among: bool) -> Any:
    """PostgreSQL: claim, update and record one batch, in one statement that returns the totals."""
    now, c = _now(tables), tables.c
    spec = specify(tables, now)
    claim = _claim(tables, spec, is_among=is_among)
    if not tables.shape.is_distributed:
        # Citus has no row locks over several shards; there the update's recheck is enough.
        claim = claim.add_columns(_CTID).with_for_update(key_share=True, skip_locked=True)
    claimed = claim.cte("claimed")
    update = _update_claimed(tables, spec, claimed)
    if not tables.shape.is_distributed:
        # The row that was locked, without another way through an index. Where a message came first, this is a version
        # too new for the statement to see, and the row is left to the next batch.
        update = update.where(claimed.c.ctid == _CTID)
    swept = update.returning(
        c.owner_id,
        c.conv_id,
        c.version,
        claimed.c.from_status,
        (c.status == spec.to_status).label("makes_transition"),
        spec.deadline.label("deadline"),
    ).cte("swept")
    recorded = _insert_events(tables, spec, swept, now, swept.c.version).cte("recorded")
    totals = sa.select(
        _count(claimed).label("claimed"),
        sa.select(sa.func.count()).where(swept.c.makes_transition).select_from(swept).scalar_subquery().label("ended"),
        _count(swept).label("written"),
        sa.select(sa.func.max(claimed.c.sort_key)).scalar_subquery().label("last_sort_key"),
        _lags(swept, now).label("lags"),
    )
    return totals.add_cte(recorded)


def record_batch(tables: Tables, specify: Specify, is_among: bool) -> Any:
    """SQLite: insert the events of a batch that `update_batch` ends; nothing can come between the two.

    SQLite has no writing CTEs. The same rows twice: the order is total, and the transaction holds the only write lock.
    """
    spec = specify(tables, BOUND_NOW)
    claimed = _claim(tables, spec, is_among=is_among).order_by(tables.c.conv_id).cte("claimed")
    return _insert_events(tables, spec, claimed, BOUND_NOW, claimed.c.version + 1).returning(tables.events.c.version)


def update_batch(tables: Tables, specify: Specify, is_among: bool) -> Any:
    """SQLite: end or re-arm a batch; returns for each conversation whether it ended, and its deadline."""
    spec = specify(tables, BOUND_NOW)
    claimed = _claim(tables, spec, is_among=is_among).order_by(tables.c.conv_id).cte("claimed")
    return _update_claimed(tables, spec, claimed).returning(
        (tables.c.status == spec.to_status).label("makes_transition"),
        # As text: others may have written something that is no time.
        sa.type_coerce(spec.deadline, sa.Text).label("deadline"),
    )


def _update_claimed(tables: Tables, spec: SweepSpec, claimed: sa.CTE) -> Any:
    """The claim may be old news by now (or, without row locks, somebody else's): recheck everything.

    The status is compared with the claimed one and not with the list: that would match the partial index, and the
    update would read everything that is due instead of its batch, by its key.
    """
    c = tables.c
    return (
        sa.update(tables.conversations)
        .where(
            c.owner_id == claimed.c.owner_id,
            c.conv_id == claimed.c.conv_id,
            c.version == claimed.c.version,
            c.status == claimed.c.from_status,
            spec.due,
        )
        .values(
            {
                "status": sa.case((spec.makes_transition, spec.to_status.value), else_=c.status),
                "version": sa.case((spec.makes_transition, c.version + 1), else_=c.version),
                **spec.values,
            }
        )
    )


def _insert_events(
    tables: Tables, spec: SweepSpec, source: sa.CTE, now: Moment, version: sa.ColumnElement[int]
) -> sa.Insert:
    data = tables.events.c.data.type
    columns: dict[str, sa.ColumnElement[Any]] = {
        "owner_id": source.c.owner_id,
        "conv_id": source.c.conv_id,
        "version": version,
        "type": sa.literal(spec.event_type.value),
        "from_status": source.c.from_status,
        "to_status": sa.literal(spec.to_status.value),
        "reason": sa.literal(spec.to_status.value),
        "actor": sa.literal(WORKER),
        "deadline": source.c.deadline,
        "occurred_at": now,
        "data": sa.case(
            (source.c.deadline < SILENT_BEFORE, sa.bindparam("silent_data", type_=data)),
            else_=sa.bindparam("new_data", type_=data),
        ),
    }
    selected = sa.select(*columns.values()).where(source.c.makes_transition)
    return sa.insert(tables.events).from_select(list(columns), selected)


def _count(source: sa.CTE) -> sa.ScalarSelect[Any]:
    return sa.select(sa.func.count()).select_from(source).scalar_subquery()


def _lags(swept: sa.CTE, now: Moment) -> sa.ScalarSelect[Any]:
    """The seconds from its deadline to its end for each conversation, as one array; NULL where none ended."""
    # Not `extract`, whose exact number takes three times as long to make.
    lag = sa.func.date_part("epoch", now - swept.c.deadline, type_=sa.Double)
    # Others may have written an activity at -infinity, from which no server before 17 can count.
    is_counted = swept.c.makes_transition & sa.func.isfinite(swept.c.deadline)
    return sa.select(sa.func.array_agg(lag, type_=sa.types.NULLTYPE)).where(is_counted).scalar_subquery()

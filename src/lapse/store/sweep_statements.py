"""The statements of sweeps, written once: what is due, and how one batch of it is ended or re-armed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lapse.lifecycle import ConversationStatus, EventType
from lapse.models import AnyId
from lapse.store.schema import conversation_events as events
from lapse.store.schema import conversations, is_active, is_open
from lapse.store.statements import IDLE_TIMEOUT, LIMIT, Now
from lapse.store.tolerance import expiry, latest_activity, least_owner, look_from
from lapse.store.types import ConversationIds, SweepStart, UtcDateTime, is_one_of, is_time, plus_seconds

c = conversations.c
AFTER: sa.BindParameter[datetime] = sa.bindparam("after", type_=SweepStart)
IDS: sa.BindParameter[list[AnyId]] = sa.bindparam("ids", type_=ConversationIds)
AMONG_IDS = is_one_of(c.conv_id, IDS)
"""The one condition by which a batch that leaves some out and one that takes only some differ."""
_CTID: sa.Label[Any] = sa.literal_column("conversations.ctid").label("ctid")
"""Where PostgreSQL keeps this version of a row."""
WORKER = "worker"
"""The actor of every transition that a sweep makes."""
SILENT = "silent"
"""In an event's data: true where whoever reads the events to tell somebody should leave it out."""
SILENT_BEFORE: sa.BindParameter[datetime] = sa.bindparam("silent_before", type_=UtcDateTime)
"""What has its deadline before this moment ends silently; NULL: nothing does."""


def is_expired(now: Now) -> sa.ColumnElement[bool]:
    """Open, and past its expiry."""
    return is_open & _expiry_passed(now) & is_time(c.expires_at)


def is_idle(now: Now) -> sa.ColumnElement[bool]:
    """Active, without activity for longer than the idle timeout, and not expired, which goes first."""
    without_activity = latest_activity(c.updated_at) < plus_seconds(now, -IDLE_TIMEOUT)
    return is_active & without_activity & (expiry(c.expires_at) >= now)


def _expiry_passed(now: Now) -> sa.ColumnElement[bool]:
    return c.expires_at < now


def _idle_check_passed(now: Now) -> sa.ColumnElement[bool]:
    return c.idle_check_at < now


def _not_before_after(deadline: sa.ColumnElement[datetime]) -> sa.ColumnElement[bool]:
    """Where a batch goes on. The second column decides nothing: it keeps the planner from taking both ends for a range.

    Of a range it expects one row in two hundred where it has no statistics yet, and then sorts all that is due for each
    batch, in place of reading the index in order.
    """
    return sa.tuple_(deadline, c.owner_id) >= sa.tuple_(AFTER, least_owner())


def is_looked_at(now: Now) -> sa.ColumnElement[bool]:
    """What the two idle sweeps look at, of what is active."""
    return (_idle_check_passed(now) & is_time(c.idle_check_at)) | _armed_longer()


def _armed_longer() -> sa.ColumnElement[bool]:
    return c.idle_timeout_seconds > IDLE_TIMEOUT


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep looks at, in which order, which of those rows make the transition, and what it writes."""

    among: sa.ColumnElement[bool]
    passed: sa.ColumnElement[bool]
    order: sa.ColumnElement[Any]
    ends: sa.ColumnElement[bool]
    deadline: sa.ColumnElement[datetime]
    to_status: ConversationStatus
    event_type: EventType
    values: dict[str, Any]

    @property
    def look(self) -> sa.ColumnElement[bool]:
        """What the claim takes: rows of a partial index, up to a moment."""
        return self.among & self.passed


def expired_sweep(now: Now) -> Sweep:
    """End what is past its expiry."""
    return Sweep(
        among=is_open,
        passed=_expiry_passed(now) & _not_before_after(c.expires_at),
        order=c.expires_at,
        ends=sa.true(),
        deadline=c.expires_at,
        to_status=ConversationStatus.EXPIRED,
        event_type=EventType.EXPIRED,
        values={"ended_at": now},
    )


def idle_sweep(now: Now, *, armed_longer: bool = False) -> Sweep:
    """Pause what is idle and re-arm the rest of what it looks at.

    With `armed_longer` it looks at the conversations whose next look was computed from a longer idle timeout than
    this one, which therefore may be idle already.
    """
    passed = _idle_check_passed(now) & _not_before_after(c.idle_check_at)
    next_check = sa.case(
        (is_idle(now), c.idle_check_at),
        # Expiry has passed and ends it at the expired task's next run: no need to be in the way until then.
        (_expiry_passed(now), plus_seconds(now, IDLE_TIMEOUT)),
        else_=plus_seconds(look_from(latest_activity(c.updated_at), now), IDLE_TIMEOUT),
    )
    return Sweep(
        among=is_active,
        passed=_armed_longer() if armed_longer else passed,
        order=c.idle_timeout_seconds if armed_longer else c.idle_check_at,
        ends=is_idle(now),
        deadline=plus_seconds(latest_activity(c.updated_at), IDLE_TIMEOUT),
        to_status=ConversationStatus.IDLE_TIMEOUT,
        event_type=EventType.PAUSED,
        values={"idle_check_at": next_check, "idle_timeout_seconds": IDLE_TIMEOUT},
    )


def sweep_statements(
    dialect: str, sweep: Sweep, now: Now, scope: sa.ColumnElement[bool], *, is_distributed: bool = False
) -> list[Any]:
    """Return the statements of one batch among `scope`: one on PostgreSQL, three in one transaction on SQLite.

    PostgreSQL's returns the totals. SQLite has no writing CTEs; there nothing can come between the statements, which
    return the events, whether each conversation that was written made the transition and its deadline, and one that is
    still due.

    On a distributed table `now` must be a bound value: Citus refuses `now()` where rows are written, in CASE and in
    RETURNING.
    """
    if dialect == "postgresql":
        claim = _claim(sweep, scope)
        if not is_distributed:  # Citus has no row locks over several shards; the update's recheck is enough
            claim = claim.add_columns(_CTID).with_for_update(key_share=True, skip_locked=True)
        claimed = claim.cte("claimed")
        update = _update_claimed(sweep, claimed)
        if not is_distributed:
            # The row that was locked, without another way through an index. Where a message came first, this is a
            # version too new for the statement to see, and the row is left to the next batch.
            update = update.where(claimed.c.ctid == _CTID)
        swept = update.returning(
            c.owner_id,
            c.conv_id,
            c.version,
            claimed.c.from_status,
            (c.status == sweep.to_status).label("ends"),
            sweep.deadline.label("deadline"),
        ).cte("swept")
        recorded = _record(sweep, swept, now, swept.c.version).cte("recorded")
        totals = sa.select(
            sa.select(sa.func.count()).select_from(claimed).scalar_subquery().label("claimed"),
            sa.select(sa.func.count()).where(swept.c.ends).select_from(swept).scalar_subquery().label("ended"),
            sa.select(sa.func.count()).select_from(swept).scalar_subquery().label("written"),
            sa.select(sa.func.max(claimed.c.place)).scalar_subquery().label("last_place"),
            _lags(swept, now).label("lags"),
        )
        return [totals.add_cte(recorded)]
    # The same rows twice: the order is total, and the transaction holds the only write lock.
    claimed = _claim(sweep, scope).order_by(c.conv_id).cte("claimed")
    return [
        _record(sweep, claimed, now, claimed.c.version + 1).returning(events.c.version),
        _update_claimed(sweep, claimed).returning(
            (c.status == sweep.to_status).label("ends"),
            # As text: others may have written something that is no time.
            sa.type_coerce(sweep.deadline, sa.Text).label("deadline"),
        ),
        look_at(sweep, scope).limit(1),
    ]


def look_at(sweep: Sweep, scope: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select the ids that a batch would claim; nothing is locked."""
    return sa.select(c.conv_id).where(sweep.look, scope).order_by(sweep.order).limit(LIMIT)


def _lags(swept: sa.CTE, now: Now) -> sa.ScalarSelect[Any]:
    """How many seconds after its deadline each conversation ended, as one array: NULL where none did."""
    # Not `extract`, whose exact number takes three times as long to make.
    lag = sa.func.date_part("epoch", now - swept.c.deadline, type_=sa.Double)
    # Others may have written an activity at -infinity, from which no server before 17 can count.
    is_counted = swept.c.ends & sa.func.isfinite(swept.c.deadline)
    return sa.select(sa.func.array_agg(lag, type_=sa.types.NULLTYPE)).where(is_counted).scalar_subquery()


def _claim(sweep: Sweep, scope: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return (
        sa.select(
            c.owner_id,
            c.conv_id,
            c.version,
            c.status.label("from_status"),
            sweep.order.label("place"),
            sweep.ends.label("ends"),
            sweep.deadline.label("deadline"),
        )
        .where(sweep.look, scope)
        .order_by(sweep.order)
        .limit(LIMIT)
    )


def _update_claimed(sweep: Sweep, claimed: sa.CTE) -> Any:
    """The claim may be old news by now (or, without row locks, somebody else's): recheck everything.

    The status is compared with the claimed one and not with the list: that would match the partial index, and the
    update would read everything that is due instead of its batch, by its key.
    """
    return (
        sa.update(conversations)
        .where(
            c.owner_id == claimed.c.owner_id,
            c.conv_id == claimed.c.conv_id,
            c.version == claimed.c.version,
            c.status == claimed.c.from_status,
            sweep.passed,
        )
        .values(
            {
                "status": sa.case((sweep.ends, sweep.to_status.value), else_=c.status),
                "version": sa.case((sweep.ends, c.version + 1), else_=c.version),
                **sweep.values,
            }
        )
    )


def _record(sweep: Sweep, source: sa.CTE, now: Now, version: sa.ColumnElement[int]) -> sa.Insert:
    columns: dict[str, sa.ColumnElement[Any]] = {
        "owner_id": source.c.owner_id,
        "conv_id": source.c.conv_id,
        "version": version,
        "type": sa.literal(sweep.event_type.value),
        "from_status": source.c.from_status,
        "to_status": sa.literal(sweep.to_status.value),
        "reason": sa.literal(sweep.to_status.value),
        "actor": sa.literal(WORKER),
        "deadline": source.c.deadline,
        "occurred_at": now,
        "data": sa.case(
            (source.c.deadline < SILENT_BEFORE, sa.bindparam("silent_data", type_=events.c.data.type)),
            else_=sa.bindparam("new_data", type_=events.c.data.type),
        ),
    }
    return sa.insert(events).from_select(list(columns), sa.select(*columns.values()).where(source.c.ends))


def find_due(due: sa.ColumnElement[bool], order: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Select due conversations, the longest overdue first; nothing is locked."""
    return sa.select(conversations).where(due).order_by(order).limit(LIMIT)


def find_expired(now: Now) -> sa.Select[Any]:
    """Select what an expired sweep would end."""
    return find_due(is_expired(now), c.expires_at)


def find_idle(now: Now) -> sa.Select[Any]:
    """Select what an idle sweep would pause; the first condition is the one that has an index."""
    return find_due(is_idle(now) & is_looked_at(now), latest_activity(c.updated_at))


def count_due(now: Now) -> sa.Select[Any]:
    """Count what is due: idle, expired."""
    idle = is_idle(now) & is_looked_at(now)
    return sa.select(
        sa.select(sa.func.count()).select_from(conversations).where(idle).scalar_subquery().label("idle"),
        sa.select(sa.func.count()).select_from(conversations).where(is_expired(now)).scalar_subquery().label("expired"),
    )


def count_due_up_to(now: Now) -> sa.Select[Any]:
    """Count what is due, each kind up to the limit: for numbers that may be large, of which little needs to be known.

    In the order of the partial indexes, so that they are what is read.
    """
    idle, checked = is_idle(now), _idle_check_passed(now) & is_time(c.idle_check_at)
    parts = {
        "expired": sa.select(c.expires_at).where(is_expired(now)).order_by(c.expires_at),
        "idle": sa.select(c.idle_check_at).where(idle, checked).order_by(c.idle_check_at),
        "armed_longer": sa.select(c.idle_timeout_seconds)
        .where(idle, ~checked, _armed_longer())
        .order_by(c.idle_timeout_seconds),
    }
    return sa.select(
        *(
            sa.select(sa.func.count()).select_from(part.limit(LIMIT).subquery(name)).scalar_subquery().label(name)
            for name, part in parts.items()
        )
    )

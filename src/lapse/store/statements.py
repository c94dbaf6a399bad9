"""Every SQL statement of lapse, written once in SQLAlchemy Core for PostgreSQL and SQLite.

`now` is an expression: the database's own clock on PostgreSQL, a bound value on SQLite and under an injected clock.
What only one dialect can do stands here too, marked with the dialect's name.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lapse.lifecycle import Sender, unmoved_statuses
from lapse.store.schema import conversation_events as events
from lapse.store.schema import conversations, idle_check_index, is_active, is_open, status_in
from lapse.store.tolerance import expiry, pair_channel
from lapse.store.types import ConversationIds, MomentOrText, UtcDateTime, greatest, is_one_of, is_time, plus_seconds

Now = sa.ColumnElement[datetime]

c = conversations.c
# A parameter with the name of a column would be taken for a value to write: hence the prefixes `of_` and `new_`.
OF_OWNER = c.owner_id == sa.bindparam("of_owner_id")
OF_ID = c.conv_id == sa.bindparam("of_conv_id", type_=c.conv_id.type)
OF_PAIR = (
    OF_OWNER
    & (pair_channel(c.channel) == sa.bindparam("of_channel", type_=c.channel.type))
    & (c.session_key == sa.bindparam("of_session_key"))
)
UNIQUE_AMONG_OPEN: list[Any] = [c.owner_id, pair_channel(c.channel), c.session_key]
LIMIT: sa.BindParameter[int] = sa.bindparam("limit", type_=sa.Integer)
IDLE_TIMEOUT: sa.BindParameter[int] = sa.bindparam("idle_timeout", type_=sa.Integer)
IS_INBOUND: sa.BindParameter[bool] = sa.bindparam("is_inbound", type_=sa.Boolean)
BEGINNING_OF_TIME = datetime(1, 1, 1, tzinfo=UTC)
"""The first moment of the calendar: where a sweep starts that follows no other."""
GREATEST_INTEGER = 2**63 - 1
"""Of either database."""
BOUND_NOW: sa.BindParameter[datetime] = sa.bindparam("now", type_=UtcDateTime)


def server_now() -> Now:
    """Return PostgreSQL's clock: the start of the statement's transaction, never later than the truth."""
    return sa.func.now(type_=UtcDateTime)


SERVER_CLOCK = sa.select(sa.func.clock_timestamp(type_=UtcDateTime).label("now"))
"""PostgreSQL: the moment of reading, for what must be later than a lock that was waited for."""


# --- messages -------------------------------------------------------------------------------------------------------


def _new_conversation(dialect: str, now: Now) -> Any:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    names = (
        "owner_id",
        "conv_id",
        "channel",
        "session_key",
        "from_number",
        "to_number",
        "user_id",
        "status",
    )
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}", type_=c[name].type) for name in names}
    inbound = sa.case((IS_INBOUND, now), else_=sa.null())
    return insert(conversations).values(
        **values,
        version=0,
        started_at=now,
        updated_at=now,
        last_inbound_at=inbound,
        expires_at=plus_seconds(now, sa.bindparam("expiration", type_=sa.Integer)),
        idle_check_at=plus_seconds(now, IDLE_TIMEOUT),
        idle_timeout_seconds=IDLE_TIMEOUT,
        context=sa.bindparam("new_context", type_=c.context.type),
        metadata=sa.bindparam("new_metadata", type_=c.metadata.type),
    )


def open_conversation(dialect: str, now: Now) -> Any:
    """Insert a conversation unless its pair has an open one; returns the new row or nothing."""
    return (
        _new_conversation(dialect, now)
        .on_conflict_do_nothing(index_elements=UNIQUE_AMONG_OPEN, index_where=is_open)
        .returning(conversations)
    )


def message(dialect: str, now: Now, sender: Sender) -> Any:
    """Open a conversation or note activity on the open one, in one statement that touches no indexed column.

    Returns nothing where the message means a transition (`store.repository` takes the longer way then). Times come
    from `excluded`, since a distributed table refuses `now()` in DO UPDATE SET.
    """
    insert = _new_conversation(dialect, now)
    return insert.on_conflict_do_update(
        index_elements=UNIQUE_AMONG_OPEN,
        index_where=is_open,
        set_=_activity(insert.excluded.updated_at, insert.excluded.last_inbound_at.is_not(None)),
        where=status_in(c.status, unmoved_statuses(sender)) & (expiry(c.expires_at) >= insert.excluded.updated_at),
    ).returning(conversations)


def activity(now: Now, sender: Sender) -> Any:
    """Note activity on the pair's open conversation, if the message means no transition; returns the row or nothing.

    It does for an open conversation what `message` does, and writes a quarter less to PostgreSQL's log: INSERT … ON
    CONFLICT locks the row before it updates it, and logs that, too (docs/performance.md).
    """
    moment = greatest(c.updated_at, now)
    inbound = {"last_inbound_at": moment} if sender is Sender.USER else {}
    # `is_open` for SQLite, which uses a partial index only where its very condition stands.
    return (
        sa.update(conversations)
        .where(OF_PAIR, is_open, status_in(c.status, unmoved_statuses(sender)), expiry(c.expires_at) >= now)
        .values(updated_at=moment, **inbound)
        .returning(conversations)
    )


def _activity(at: sa.ColumnElement[Any], is_inbound: sa.ColumnElement[bool]) -> dict[str, Any]:
    """What every message writes; never backwards, since two clocks or two connections may disagree."""
    moment = greatest(c.updated_at, at)
    return {"updated_at": moment, "last_inbound_at": sa.case((is_inbound, moment), else_=c.last_inbound_at)}


NOTE_ACTIVITY = (
    sa.update(conversations).where(OF_OWNER, OF_ID).values(_activity(BOUND_NOW, IS_INBOUND)).returning(conversations)
)

# --- one conversation -----------------------------------------------------------------------------------------------

LOCK_OPEN_OF_PAIR = sa.select(conversations).where(OF_PAIR, is_open).with_for_update()
LOCK_BY_ID = sa.select(conversations).where(OF_OWNER, OF_ID).with_for_update()

TRANSITION = (
    sa.update(conversations)
    .where(OF_OWNER, OF_ID, c.version == sa.bindparam("from_version"))
    .values(
        status=sa.bindparam("new_status"),
        version=c.version + 1,
        ended_at=sa.bindparam("new_ended_at", type_=UtcDateTime),
    )
    .returning(conversations)
)
REARM = (
    sa.update(conversations)
    .where(OF_OWNER, OF_ID)
    .values(idle_check_at=plus_seconds(BOUND_NOW, IDLE_TIMEOUT), idle_timeout_seconds=IDLE_TIMEOUT)
)
SET_EXPIRY = (
    sa.update(conversations)
    .where(OF_OWNER, OF_ID)
    .values(expires_at=sa.bindparam("new_expires_at", type_=UtcDateTime))
    .returning(conversations)
)
INSERT_EVENT = sa.insert(events)

# --- reading --------------------------------------------------------------------------------------------------------

BY_ID = sa.select(conversations).where(OF_ID)
BY_OWNER_AND_ID = sa.select(conversations).where(OF_OWNER, OF_ID)
OPEN_OF_PAIR = sa.select(conversations).where(OF_PAIR, is_open)
_NOT_OPEN_OF_PAIR = (
    sa.select(conversations).where(OF_PAIR, ~is_open).order_by(c.started_at.desc(), c.conv_id.desc()).limit(LIMIT)
)
# Each part goes by an index of its own.
HISTORY_OF_PAIR = (
    sa.union_all(sa.select(_NOT_OPEN_OF_PAIR.subquery("not_open")), OPEN_OF_PAIR)
    .order_by(sa.desc("started_at"), sa.desc("conv_id"))
    .limit(LIMIT)
)
ACTIVE_OF_OWNER = sa.select(conversations).where(OF_OWNER, is_active).order_by(c.updated_at.desc()).limit(LIMIT)
EVENTS_OF_CONVERSATION = (
    sa.select(events)
    .where(
        events.c.owner_id == sa.bindparam("of_owner_id"),
        events.c.conv_id == sa.bindparam("of_conv_id", type_=c.conv_id.type),
    )
    .order_by(events.c.version)
)
COUNT_OPEN_BY_STATUS = sa.select(c.status, sa.func.count().label("conversations")).where(is_open).group_by(c.status)
# In the order of the partial index, so that it is what is read: without an order the planner may prefer the table, and
# pass all that is closed before it finds anything active.
_SOME_ACTIVE = (
    sa.select(c.idle_check_at).where(is_active).order_by(c.idle_check_at).limit(LIMIT).subquery("some_active")
)
COUNT_ACTIVE = sa.select(sa.func.count().label("conversations")).select_from(_SOME_ACTIVE)
ANY_CONVERSATION = sa.select(c.conv_id).limit(1)
TRANSITIONS = (
    sa.select(events, c.channel, c.session_key)
    .join(conversations, (c.owner_id == events.c.owner_id) & (c.conv_id == events.c.conv_id))
    .order_by(
        sa.func.coalesce(events.c.deadline, events.c.occurred_at),
        events.c.occurred_at,
        events.c.conv_id,
        events.c.version,
    )
)
_PG_CLASS = sa.table("pg_class", sa.column("oid"), sa.column("reltuples"))
_PG_INHERITS = sa.table("pg_inherits", sa.column("inhrelid"), sa.column("inhparent"))
_ACTIVE_INDEX = sa.func.to_regclass(sa.literal(idle_check_index.name, sa.Text))
# PostgreSQL: what the latest VACUUM or ANALYZE found in the partial index of what is active, or in its partitions.
ESTIMATE_ACTIVE = sa.select(
    sa.cast(sa.func.coalesce(sa.func.sum(sa.func.greatest(_PG_CLASS.c.reltuples, 0)), 0), sa.BigInteger).label(
        "conversations"
    )
).where(
    (_PG_CLASS.c.oid == _ACTIVE_INDEX)
    | _PG_CLASS.c.oid.in_(sa.select(_PG_INHERITS.c.inhrelid).where(_PG_INHERITS.c.inhparent == _ACTIVE_INDEX))
)
COUNT_CONVERSATIONS = sa.select(sa.func.count().label("conversations")).select_from(conversations)
COUNT_EVENTS_BY_TYPE = sa.select(events.c.type, sa.func.count().label("events")).group_by(events.c.type)
SPAN_OF_LIVES = sa.select(
    sa.func.min(c.started_at).label("begin"), sa.func.max(sa.func.coalesce(c.ended_at, c.started_at)).label("end")
)
# Ends first: a conversation that opens when another ends is not open at once with it.
BEGINS_AND_ENDS = sa.union_all(
    sa.select(c.started_at.label("moment"), sa.literal_column("1", sa.Integer).label("change")),
    sa.select(c.ended_at, sa.literal_column("-1", sa.Integer)).where(c.ended_at.is_not(None)),
).order_by("moment", "change")


def next_deadlines(dialect: str, now: Now) -> sa.Select[Any]:
    """Select when a sweep has work again, with the present moment: a look at the ends of three partial indexes."""

    def end_of(end: sa.ColumnElement[Any], name: str, among: sa.ColumnElement[bool], without: str) -> sa.Select[Any]:
        left_out = is_one_of(c.conv_id, sa.bindparam(without, type_=ConversationIds))
        return sa.select(end.label(name)).where(among, ~left_out)

    def first(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.func.min(column, type_=MomentOrText)

    # Not what others may have written: in SQLite, numbers and empty texts come before all times, texts after numbers.
    is_checked = is_active & is_time(c.idle_check_at)
    is_armed = is_active & (c.idle_timeout_seconds <= sa.literal(GREATEST_INTEGER, sa.BigInteger))
    is_ending = is_open & is_time(c.expires_at)
    ends = {
        "idle": end_of(first(c.idle_check_at), "idle", is_checked, "without_idle"),
        "armed_seconds": end_of(sa.func.max(c.idle_timeout_seconds), "armed_seconds", is_armed, "without_idle"),
        "expired": end_of(first(c.expires_at), "expired", is_ending, "without_expired"),
    }
    if dialect == "sqlite":
        # Nested: of joined ones SQLite reads the whole indexes.
        return sa.select(*(end.scalar_subquery().label(name) for name, end in ends.items()), now.label("now"))
    # Joined, not nested: a distributed database asks each of them of all its nodes.
    idle, armed, expired = (end.subquery(f"{name}_end") for name, end in ends.items())
    joined = idle.join(armed, sa.true()).join(expired, sa.true())
    return sa.select(idle.c.idle, armed.c.armed_seconds, expired.c.expired, now.label("now")).select_from(joined)

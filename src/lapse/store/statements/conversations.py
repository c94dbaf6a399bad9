"""Statements of one conversation or pair: messages, transitions, look-ups."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lapse.lifecycle import Sender, statuses_unchanged_by
from lapse.store.statements.parameters import IDLE_TIMEOUT, IS_INBOUND, LIMIT, of_id, of_owner, of_pair
from lapse.store.tables import BOUND_NOW, Moment, Tables, constant, status_in
from lapse.store.types import UtcDateTime

# --- messages -------------------------------------------------------------------------------------------------------


def _insert(tables: Tables, now: Moment) -> Any:
    insert = sqlite.insert if tables.shape.dialect == "sqlite" else postgresql.insert
    names = ("owner_id", "conv_id", "channel", "session_key", "from_number", "to_number", "user_id", "status")
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}", type_=tables.c[name].type) for name in names}
    return insert(tables.conversations).values(
        **values,
        version=0,
        started_at=now,
        updated_at=now,
        last_inbound_at=sa.case((IS_INBOUND, now), else_=sa.null()),
        expires_at=tables.plus_seconds(now, sa.bindparam("expiration", type_=sa.Integer)),
        idle_check_at=tables.plus_seconds(now, IDLE_TIMEOUT),
        idle_timeout_seconds=IDLE_TIMEOUT,
        context=sa.bindparam("new_context", type_=tables.c.context.type),
        metadata=sa.bindparam("new_metadata", type_=tables.c.metadata.type),
    )


def _unique_among_open(tables: Tables) -> dict[str, Any]:
    return {
        "index_elements": [tables.c.owner_id, tables.normalized_channel, tables.c.session_key],
        "index_where": tables.is_open,
    }


def insert_unless_open(tables: Tables) -> Any:
    """Insert a conversation unless its pair has an open one; returns the new row or nothing."""
    insert = _insert(tables, BOUND_NOW)
    return insert.on_conflict_do_nothing(**_unique_among_open(tables)).returning(tables.conversations)


def record_message(tables: Tables, sender: Sender, is_now_bound: bool = False) -> Any:
    """Open a conversation or record activity on the open one, in one statement that touches no indexed column.

    Returns nothing where the message means a transition (`operations.messages` takes the longer way then). Times come
    from `excluded`, since a distributed table refuses `now()` in DO UPDATE SET.
    """
    insert = _insert(tables, BOUND_NOW if is_now_bound else tables.now)
    new = insert.excluded
    return insert.on_conflict_do_update(
        **_unique_among_open(tables),
        set_=_activity(tables, new.updated_at, new.last_inbound_at.is_not(None)),
        where=status_in(tables.c.status, statuses_unchanged_by(sender))
        & (tables.effective_expires_at >= new.updated_at),
    ).returning(tables.conversations)


def record_activity(tables: Tables, sender: Sender) -> Any:
    """Record activity on the pair's open conversation, if the message means no transition; returns the row or nothing.

    It does for an open conversation what `record_message` does, and writes a quarter less to PostgreSQL's log: INSERT …
    ON CONFLICT locks the row before it updates it, and logs that, too (docs/performance.md).
    """
    moment = tables.greatest(tables.c.updated_at, tables.now)
    inbound = {"last_inbound_at": moment} if sender is Sender.USER else {}
    # `is_open` for SQLite, which uses a partial index only where its very condition stands.
    return (
        sa.update(tables.conversations)
        .where(
            of_pair(tables),
            tables.is_open,
            status_in(tables.c.status, statuses_unchanged_by(sender)),
            tables.effective_expires_at >= tables.now,
        )
        .values(updated_at=moment, **inbound)
        .returning(tables.conversations)
    )


def _activity(tables: Tables, at: Moment, is_inbound: sa.ColumnElement[bool]) -> dict[str, Any]:
    """What every message writes; never backwards, since two clocks or two connections may disagree."""
    moment = tables.greatest(tables.c.updated_at, at)
    return {"updated_at": moment, "last_inbound_at": sa.case((is_inbound, moment), else_=tables.c.last_inbound_at)}


# --- one conversation -----------------------------------------------------------------------------------------------


def _update(tables: Tables) -> sa.Update:
    return sa.update(tables.conversations).where(of_owner(tables), of_id(tables))


def record_activity_by_id(tables: Tables) -> Any:
    """Record activity at `now` on one conversation; returns it."""
    return _update(tables).values(_activity(tables, BOUND_NOW, IS_INBOUND)).returning(tables.conversations)


def lock_open_of_pair(tables: Tables) -> Any:
    """Lock and return the pair's open conversation."""
    return open_of_pair(tables).with_for_update()


def lock_by_id(tables: Tables) -> Any:
    """Lock and return one conversation."""
    return by_owner_and_id(tables).with_for_update()


def transition(tables: Tables) -> Any:
    """Move one conversation to `new_status` if it has the version `from_version`; returns it."""
    return (
        _update(tables)
        .where(tables.c.version == sa.bindparam("from_version"))
        .values(
            status=sa.bindparam("new_status"),
            version=tables.c.version + 1,
            ended_at=sa.bindparam("new_ended_at", type_=UtcDateTime),
        )
        .returning(tables.conversations)
    )


def rearm(tables: Tables) -> Any:
    """Set when one conversation is checked for idleness next."""
    next_check = tables.plus_seconds(BOUND_NOW, IDLE_TIMEOUT)
    return _update(tables).values(idle_check_at=next_check, idle_timeout_seconds=IDLE_TIMEOUT)


def set_expiry(tables: Tables) -> Any:
    """Set when one conversation expires; returns it."""
    expires_at: sa.BindParameter[Any] = sa.bindparam("new_expires_at", type_=UtcDateTime)
    return _update(tables).values(expires_at=expires_at).returning(tables.conversations)


def insert_event(tables: Tables) -> Any:
    """Insert an event."""
    return sa.insert(tables.events)


def new_id(tables: Tables) -> Any:
    """Select an id from the adopted table's own default."""
    return sa.select(constant(str(tables.shape.mapping.new_id), tables.c.conv_id.type).label("conv_id"))


def clock(_tables: Tables) -> Any:
    """Select the time on PostgreSQL at this very moment: later than a lock that the transaction has waited for."""
    return sa.select(sa.func.clock_timestamp(type_=UtcDateTime).label("now"))


# --- reading --------------------------------------------------------------------------------------------------------


def by_id(tables: Tables) -> Any:
    """Select a conversation by its id alone."""
    return sa.select(tables.conversations).where(of_id(tables))


def by_owner_and_id(tables: Tables) -> Any:
    """Select a conversation by its whole key."""
    return sa.select(tables.conversations).where(of_owner(tables), of_id(tables))


def open_of_pair(tables: Tables) -> Any:
    """Select the pair's open conversation."""
    return sa.select(tables.conversations).where(of_pair(tables), tables.is_open)


def history_of_pair(tables: Tables) -> Any:
    """Select all conversations of a pair, the latest first: each part goes by an index of its own."""
    c = tables.c
    not_open = (
        sa.select(tables.conversations)
        .where(of_pair(tables), ~tables.is_open)
        .order_by(c.started_at.desc(), c.conv_id.desc())
        .limit(LIMIT)
    )
    return (
        sa.union_all(sa.select(not_open.subquery("not_open")), open_of_pair(tables))
        .order_by(sa.desc("started_at"), sa.desc("conv_id"))
        .limit(LIMIT)
    )


def active_of_owner(tables: Tables) -> Any:
    """Select an owner's active conversations, the latest activity first."""
    active = sa.select(tables.conversations).where(of_owner(tables), tables.is_active)
    return active.order_by(tables.c.updated_at.desc()).limit(LIMIT)


def events_of_conversation(tables: Tables) -> Any:
    """Select a conversation's events, the first one first."""
    e = tables.events.c
    return (
        sa.select(tables.events)
        .where(
            e.owner_id == sa.bindparam("of_owner_id"),
            e.conv_id == sa.bindparam("of_conv_id", type_=tables.c.conv_id.type),
        )
        .order_by(e.version)
    )


def any_conversation(tables: Tables) -> Any:
    """Select the id of one conversation, whichever."""
    return sa.select(tables.c.conv_id).limit(1)

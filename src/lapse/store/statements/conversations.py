"""Statements of one conversation or pair: transitions, updates, look-ups."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lapse.store.statements.parameters import LIMIT, of_id, of_owner, of_pair
from lapse.store.tables import Tables, constant
from lapse.store.types import UtcDateTime

# --- one conversation -----------------------------------------------------------------------------------------------


def _update(tables: Tables) -> sa.Update:
    return sa.update(tables.conversations).where(of_owner(tables), of_id(tables))


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
        .returning(*tables.conversation)
    )


def _unnoticed(tables: Tables) -> dict[str, Any]:
    """What a change that is no activity writes as well.

    In an adopted table a trigger of the application's may set `updated_at`, but for updates of lapse's own columns
    (`adoption.updated_at_triggers`): so one of them is changed, by next to nothing.
    """
    if not tables.shape.mapping.is_adopted:
        return {}
    return {"idle_check_at": tables.c.idle_check_at + constant("interval '1 microsecond'", sa.Interval)}


def set_expiry(tables: Tables) -> Any:
    """Set when one conversation expires; returns it."""
    expires_at: sa.BindParameter[Any] = sa.bindparam("new_expires_at", type_=UtcDateTime)
    return _update(tables).values(expires_at=expires_at, **_unnoticed(tables)).returning(*tables.conversation)


def update(tables: Tables, fields: tuple[str, ...]) -> Any:
    """Write these of `user_id`, `context` and `metadata` of one conversation; returns it.

    PostgreSQL merges each JSON object with `new_…`, without the keys `without_…`, and finds nothing where it is none.
    SQLite, which can only merge all levels of them, gets the whole object.
    """
    statement = _update(tables)
    values = _unnoticed(tables)
    for name in fields:
        column = tables.c[name]
        new: sa.BindParameter[Any] = sa.bindparam(f"new_{name}", type_=column.type)
        values[name] = new
        if name == "user_id" or tables.shape.dialect == "sqlite":
            continue
        empty = constant("'{}'::jsonb", column.type)
        present = sa.func.coalesce(column, empty) if tables.shape.mapping.is_adopted else column
        statement = statement.where(present.op("@>", is_comparison=True)(empty))
        without: sa.BindParameter[Any] = sa.bindparam(f"without_{name}", type_=postgresql.ARRAY(sa.Text))
        values[name] = sa.type_coerce(present.op("||", precedence=6)(new).op("-", precedence=7)(without), column.type)
    return statement.values(values).returning(*tables.conversation)


def new_id(tables: Tables) -> Any:
    """Select an id from the adopted table's own default."""
    return sa.select(constant(str(tables.shape.mapping.new_id), tables.c.conv_id.type).label("conv_id"))


def clock(_tables: Tables) -> Any:
    """Select the time on PostgreSQL at this very moment: later than a lock that the transaction has waited for."""
    return sa.select(sa.func.clock_timestamp(type_=UtcDateTime).label("now"))


# --- reading --------------------------------------------------------------------------------------------------------


def by_id(tables: Tables) -> Any:
    """Select a conversation by its id alone."""
    return sa.select(*tables.conversation).where(of_id(tables))


def by_owner_and_id(tables: Tables) -> Any:
    """Select a conversation by its whole key."""
    return sa.select(*tables.conversation).where(of_owner(tables), of_id(tables))


def open_of_pair(tables: Tables) -> Any:
    """Select the pair's open conversation."""
    return sa.select(*tables.conversation).where(of_pair(tables), tables.is_open)


def history_of_pair(tables: Tables) -> Any:
    """Select all conversations of a pair, the latest first: each part goes by an index of its own."""
    c = tables.c
    not_open = (
        sa.select(*tables.conversation)
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
    """Select an owner's active conversations that are not past their expiry, the latest activity first."""
    # What is no time (SQLite, written by others) never passes.
    is_live = (tables.effective_expires_at >= tables.now) | ~tables.is_time(tables.c.expires_at)
    active = sa.select(*tables.conversation).where(of_owner(tables), tables.is_active, is_live)
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

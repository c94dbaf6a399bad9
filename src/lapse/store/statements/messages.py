"""Statements of messages: alone, or many together. Those with `is_single` take one row of values, otherwise a batch."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lapse.lifecycle import SENDER_RULES, ConversationStatus, Sender, statuses_unchanged_by
from lapse.store.statements.batches import (
    ANSWER,
    INBOUND,
    OUTBOUND,
    Batch,
    Kind,
    batch,
)
from lapse.store.statements.parameters import IDLE_TIMEOUT, of_pair
from lapse.store.tables import BOUND_NOW, Moment, Tables, constant, status_in
from lapse.store.types import UtcDateTime

_CTID: sa.ColumnClause[Any] = sa.literal_column("conversations.ctid")

# --- a message that means no transition -----------------------------------------------------------------------------


def record_activity(tables: Tables, sender: Sender) -> Any:
    """Record a message of now on the pair's open conversation, if it means no transition; returns the row or nothing.

    It does for an open conversation what `open_or_continue` does, and writes a quarter less to PostgreSQL's log:
    INSERT … ON CONFLICT locks the row before it updates it, and logs that, too (docs/performance.md).
    """
    # `is_open` for SQLite, which uses a partial index only where its very condition stands.
    return (
        sa.update(tables.conversations)
        .where(
            of_pair(tables),
            tables.is_open,
            status_in(tables.c.status, statuses_unchanged_by(sender)),
            tables.effective_expires_at >= tables.now,
        )
        .values(_activity(tables, sender, tables.now))
        .returning(*tables.conversation)
    )


def open_or_continue(tables: Tables, is_now_bound: bool = False) -> Any:
    """Record a customer's message of now: open a conversation, or record activity on the open one.

    Returns nothing where the message means a transition. Times come from `excluded`, since a distributed table refuses
    `now()` in DO UPDATE SET.
    """
    insert = _insert_now(tables, BOUND_NOW if is_now_bound else tables.now)
    new = insert.excluded
    return insert.on_conflict_do_update(
        **unique_among_open(tables),
        set_=_activity(tables, Sender.USER, new.updated_at),
        where=status_in(tables.c.status, statuses_unchanged_by(Sender.USER))
        & (tables.effective_expires_at >= new.updated_at),
    ).returning(*tables.conversation)


def record_activities(tables: Tables, kind: Kind) -> Any:
    """Record messages of many pairs, for each the sum of its own, on the open conversations where none is a transition.

    Returns the number `n` of each pair that it did so for, and its conversation (on SQLite without the number). A row
    that another session has locked is left out. With ids, it leaves out what was noted before, and on PostgreSQL also
    notes them.

    Args:
        tables: of the database.
        kind: one of `batches.activities`.
    """
    p, has_ids = batch(tables, kind, is_single=False), "message_id" in kind.columns
    if tables.shape.dialect == "sqlite":
        update = sa.update(tables.conversations).where(*same_pair(tables, p), _is_unchanged_by(tables, p))
        if has_ids:
            r = tables.receipts.c
            is_same = r.owner_id == p.c.owner_id, r.channel == p.c.channel, r.message_id == p.c.message_id
            update = update.where(~sa.exists().where(*is_same).correlate(p.relation))
        return update.values(_activities(tables, p.c)).returning(*tables.conversation)
    found = (
        sa.select(tables.c.conv_id, _CTID.label("ctid"))
        .where(*same_pair(tables, p), _is_unchanged_by(tables, p))
        .with_for_update(key_share=True, skip_locked=True)
        .limit(1)
        .lateral("found")
    )
    locked = (
        sa.select(*p.relation.c, found.c.conv_id, found.c.ctid)
        .select_from(p.relation.join(found, sa.true()))
        .cte("locked")
    )
    update = sa.update(tables.conversations)
    if has_ids:
        counted = _not_noted_before(tables, locked)
        # By its key: where a message came first, the row is a version too new to be found by its place.
        update = update.where(tables.c.conv_id == counted.c.conv_id, tables.c.owner_id == counted.c.owner_id)
    else:
        counted = locked
        update = update.where(counted.c.ctid == _CTID)
    return update.values(_activities(tables, counted.c)).returning(counted.c.n, *tables.conversation)


def _not_noted_before(tables: Tables, locked: sa.CTE) -> sa.CTE:
    """Note the messages' ids, and return the rows of those that were not there, and of those without one."""
    names = ("owner_id", "channel", "message_id", "conv_id")
    noted = (
        postgresql.insert(tables.receipts)
        .from_select(
            [*names, "seen_at"],
            sa.select(*(locked.c[name] for name in names), _seen_at(tables))
            .where(locked.c.message_id.is_not(None))
            .order_by(*(locked.c[name] for name in names[:3])),
        )
        .on_conflict_do_nothing()
        .returning(*(tables.receipts.c[name] for name in names[:3]))
        .cte("noted")
    )
    is_noted = sa.and_(*(noted.c[name] == locked.c[name] for name in names[:3]))
    counted = sa.union_all(
        sa.select(*locked.c).where(locked.c.message_id.is_(None)),
        sa.select(*locked.c).select_from(locked.join(noted, is_noted)),
    )
    # Of its own: PostgreSQL looks at a row again that another session has changed, and then at nothing but this.
    return counted.cte("counted").prefix_with("MATERIALIZED")


def _seen_at(tables: Tables) -> Moment:
    """The present, with the fraction of a second by which a call knows its own receipts."""
    second = sa.func.date_trunc(constant("'second'"), tables.now, type_=UtcDateTime)
    microseconds = sa.bindparam("microsecond", type_=sa.Integer) * constant("interval '1 microsecond'")
    return second + sa.type_coerce(microseconds, sa.Interval)


def same_pair(tables: Tables, pairs: Batch) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions that a conversation is of the pair of a row; the last one is that it is open."""
    return (
        tables.c.owner_id == pairs.c.owner_id,
        tables.normalized_channel == pairs.c.channel,
        tables.c.session_key == pairs.c.session_key,
        tables.is_open,
    )


def _is_unchanged_by(tables: Tables, p: Batch) -> sa.ColumnElement[bool]:
    c, status = tables.c, ConversationStatus
    is_answer = p.c.sides.op("&")(constant(str(ANSWER))) > constant("0")
    is_unchanged = status_in(c.status, [status.PROGRESS]) | (status_in(c.status, [status.PENDING]) & ~is_answer)
    condition = is_unchanged & (tables.effective_expires_at >= tables.now)
    # What was sent before it began may belong to the one before.
    return sa.and_(condition, p.c.earliest_at >= c.started_at) if hasattr(p.c, "earliest_at") else condition


def _activities(tables: Tables, source: Any) -> dict[str, Any]:
    """What the messages of a pair write together; a time later than now is now, NULL is none."""
    c, now = tables.c, tables.now

    def written(name: str, side: int | None) -> Moment:
        moment = tables.earliest(getattr(source, name), now) if hasattr(source, name) else now
        if side is None:
            return moment
        return sa.case((source.sides.op("&")(constant(str(side))) > constant("0"), moment), else_=sa.null())

    return {
        "updated_at": tables.latest(c.updated_at, written("latest_at", None)),
        "last_inbound_at": tables.latest(c.last_inbound_at, written("inbound_at", INBOUND)),
        "last_outbound_at": tables.latest(c.last_outbound_at, written("outbound_at", OUTBOUND)),
        "first_answered_at": tables.earliest(c.first_answered_at, written("answered_at", ANSWER)),
    }


def _activity(tables: Tables, sender: Sender, at: Moment) -> dict[str, Any]:
    """What a message at this moment writes; never backwards, since two clocks or two connections may disagree."""
    c, rule = tables.c, SENDER_RULES[sender]
    values: dict[str, Any] = {"updated_at": tables.latest(c.updated_at, at)}
    side = "last_inbound_at" if rule.is_inbound else "last_outbound_at"
    values[side] = tables.latest(c[side], at)
    if rule.answers:
        values["first_answered_at"] = tables.earliest(c.first_answered_at, at)
    return values


def _insert_now(tables: Tables, now: Moment) -> Any:
    insert = sqlite.insert if tables.shape.dialect == "sqlite" else postgresql.insert
    names = ("owner_id", "conv_id", "channel", "session_key", "from_number", "to_number", "user_id", "context")
    values = {name: sa.bindparam(f"new_{name}", type_=tables.c[name].type) for name in (*names, "metadata")}
    return insert(tables.conversations).values(
        **values,
        status=sa.literal(SENDER_RULES[Sender.USER].opens_as.value),
        version=0,
        opened_by=sa.literal(Sender.USER.value),
        started_at=now,
        updated_at=now,
        last_inbound_at=now,
        expires_at=tables.plus_seconds(now, sa.bindparam("expiration", type_=sa.Integer)),
        idle_check_at=tables.plus_seconds(now, IDLE_TIMEOUT),
        idle_timeout_seconds=IDLE_TIMEOUT,
    )


def unique_among_open(tables: Tables) -> dict[str, Any]:
    """Return the index that a second open conversation of a pair conflicts with."""
    return {
        "index_elements": [tables.c.owner_id, tables.normalized_channel, tables.c.session_key],
        "index_where": tables.is_open,
    }

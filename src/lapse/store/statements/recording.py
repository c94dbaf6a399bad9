"""Statements of a transaction that records messages: it reads what is there, and writes what the messages do.

With `is_single` a statement takes one row of values, otherwise a batch.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from lapse.store.statements.batches import EVENTS, KEYS, NEW_CONVERSATIONS, PAIRS, RECEIPTS, STATES, Batch, batch
from lapse.store.statements.messages import same_pair, unique_among_open
from lapse.store.statements.parameters import LIMIT
from lapse.store.tables import BOUND_NOW, Tables

_TIMES = ("updated_at", "last_inbound_at", "last_outbound_at", "first_answered_at")


def open_of_pairs(tables: Tables, is_single: bool, lock: str | None) -> Any:
    """Select the open conversation of each pair, after the pair's number `n`.

    Args:
        tables: of the database.
        is_single: of one pair.
        lock: `wait` for whoever has a row locked, `skip` such rows, or None: lock nothing.
    """
    p = batch(tables, PAIRS, is_single=is_single)
    found = sa.select(*tables.conversation).where(*same_pair(tables, p))
    if lock is not None:
        found = found.with_for_update(key_share=True, skip_locked=lock == "skip")
    return _of_each(tables, p, found)


def latest_closed_of_pairs(tables: Tables, is_single: bool) -> Any:
    """Select the latest conversation of each pair that is not open, after the pair's number `n`."""
    p, c = batch(tables, PAIRS, is_single=is_single), tables.c
    *is_same, is_open = same_pair(tables, p)
    found = sa.select(*tables.conversation).where(*is_same, ~is_open)
    return _of_each(tables, p, found.order_by(c.started_at.desc(), c.conv_id.desc()))


def _of_each(tables: Tables, pairs: Batch, found: sa.Select[Any]) -> Any:
    """Select the first row that is found for each pair, after the pair's number."""
    if pairs.relation is None:
        return found.add_columns().with_only_columns(pairs.c.n.label("n"), *tables.conversation).limit(1)
    if tables.shape.dialect != "sqlite":
        each = found.limit(1).lateral("found")
        return sa.select(pairs.c.n, *each.c).select_from(pairs.relation.join(each, sa.true()))
    conv_id = found.with_only_columns(tables.c.conv_id).limit(1).correlate(pairs.relation).scalar_subquery()
    ids = sa.select(pairs.c.n, pairs.c.owner_id, conv_id.label("conv_id")).select_from(pairs.relation).subquery("ids")
    joined = sa.and_(tables.c.conv_id == ids.c.conv_id, tables.c.owner_id == ids.c.owner_id)
    return sa.select(ids.c.n, *tables.conversation).select_from(ids.join(tables.conversations, joined))


def insert_receipts(tables: Tables, is_single: bool) -> Any:
    """Note messages' ids; returns the keys of those that were not there."""
    c = tables.receipts.c
    key = [c.owner_id, c.channel, c.message_id]
    return add_receipts(tables, is_single).on_conflict_do_nothing(index_elements=key).returning(*key)


def add_receipts(tables: Tables, is_single: bool) -> Any:
    """Note messages' ids of which none was there."""
    r = batch(tables, RECEIPTS, is_single=is_single)
    values = {**{name: getattr(r.c, name) for name in r.names}, "seen_at": BOUND_NOW}
    return _from_batch(tables, tables.receipts, r, values)


def _from_batch(tables: Tables, into: sa.Table, rows: Batch, values: dict[str, Any]) -> Any:
    insert = (sqlite.insert if tables.shape.dialect == "sqlite" else postgresql.insert)(into)
    if rows.relation is None:
        return insert.values(values)
    # WHERE, for SQLite would take ON CONFLICT for a join's condition.
    selected = sa.select(*(value.label(name) for name, value in values.items())).select_from(rows.relation)
    return insert.from_select(list(values), selected.where(sa.text("true")))


def receipts_of(tables: Tables, is_single: bool) -> Any:
    """Select the receipts of messages that were noted before."""
    r, receipts = batch(tables, RECEIPTS, is_single=is_single), tables.receipts
    selected = sa.select(receipts)
    if r.relation is not None:
        selected = selected.select_from(r.relation.join(receipts, sa.true()))
    return selected.where(
        receipts.c.owner_id == r.c.owner_id,
        receipts.c.channel == r.c.channel,
        receipts.c.message_id == r.c.message_id,
    )


def move_receipts(tables: Tables, is_single: bool) -> Any:
    """Say of messages' receipts which conversation they belong to; for SQLite, where no role lacks the right to."""
    r, receipts = batch(tables, RECEIPTS, is_single=is_single), tables.receipts
    return (
        sa.update(receipts)
        .where(
            receipts.c.owner_id == r.c.owner_id,
            receipts.c.channel == r.c.channel,
            receipts.c.message_id == r.c.message_id,
        )
        .values(conv_id=r.c.conv_id)
    )


def delete_receipts(tables: Tables, is_single: bool) -> Any:
    """Delete receipts that were noted in this transaction; not for SQLite.

    Of messages that it does not record, or that belong to another conversation.
    """
    r, receipts = batch(tables, RECEIPTS, is_single=is_single), tables.receipts
    return sa.delete(receipts).where(
        receipts.c.owner_id == r.c.owner_id,
        receipts.c.channel == r.c.channel,
        receipts.c.message_id == r.c.message_id,
    )


def by_keys(tables: Tables, is_single: bool) -> Any:
    """Select conversations by owner and id."""
    k = batch(tables, KEYS, is_single=is_single)
    selected = sa.select(*tables.conversation)
    if k.relation is not None:
        selected = selected.select_from(k.relation.join(tables.conversations, sa.true()))
    return selected.where(tables.c.conv_id == k.c.conv_id, tables.c.owner_id == k.c.owner_id)


def some_open(tables: Tables) -> Any:
    """Select open conversations, whichever."""
    return sa.select(*tables.conversation).where(tables.is_open).limit(LIMIT)


def update_conversations(tables: Tables, is_single: bool, is_read_back: bool) -> Any:
    """Write the status and the times that messages left conversations with; returns them, or else their ids.

    The conversations were locked, but for closed ones that a late message belongs to: hence no time moves backwards.
    """
    s, c = batch(tables, STATES, is_single=is_single), tables.c
    values: dict[str, Any] = {
        name: getattr(s.c, name) for name in ("status", "version", "ended_at", "idle_check_at", "idle_timeout_seconds")
    }
    for name in _TIMES:
        combine = tables.earliest if name == "first_answered_at" else tables.latest
        values[name] = combine(c[name], getattr(s.c, name))
    return (
        sa.update(tables.conversations)
        .where(c.conv_id == s.c.conv_id, c.owner_id == s.c.owner_id, c.version == s.c.from_version)
        .values(values)
        .returning(*(tables.conversation if is_read_back else [c.conv_id]))
    )


def insert_conversations(tables: Tables, is_single: bool, is_read_back: bool) -> Any:
    """Insert conversations whose pairs have no open one; returns those that were inserted, or else their ids."""
    n = batch(tables, NEW_CONVERSATIONS, is_single=is_single)
    insert = _from_batch(tables, tables.conversations, n, {name: getattr(n.c, name) for name in n.names})
    new = insert.on_conflict_do_nothing(**unique_among_open(tables))
    return new.returning(*(tables.conversation if is_read_back else [tables.c.conv_id]))


def insert_events(tables: Tables, is_single: bool) -> Any:
    """Insert events."""
    e = batch(tables, EVENTS, is_single=is_single)
    return _from_batch(tables, tables.events, e, {name: getattr(e.c, name) for name in e.names})

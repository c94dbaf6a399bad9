"""A transaction that records messages: it reads their pairs' conversations, and writes what the messages do to them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lapse.checked_message import CheckedMessage, PairKey, ReceiptKey
from lapse.effects import PairState
from lapse.errors import DatabaseUnavailableError
from lapse.messages import MessageResult, Outcome
from lapse.models import AnyId, Conversation
from lapse.store.operations.message_group import Changes, MessageGroup, OwnTraces, fold, is_live, own_id
from lapse.store.operations.steps import CLOCK, Query, Steps, Transaction
from lapse.store.rows import row_to_conversation
from lapse.store.statements import Row, Statements, batches
from lapse.store.statements import recording as statements

MAX_ATTEMPTS = 20
"""How many times a pair's conversation may change between two statements before the call gives up."""


def record_in_transaction(
    sql: Statements,
    messages: Sequence[CheckedMessage],
    ids: OwnTraces,
    *,
    is_virtual: bool = False,
    is_group: bool | None = None,
) -> Steps[list[MessageResult | None]]:
    """Record messages in one transaction, whatever they mean.

    Args:
        sql: the statements.
        messages: those of one pair count in this order. One alone waits for whoever has its conversation locked.
        ids: of what it may open.
        is_virtual: each message is recorded at the time at which it was sent, after what was due by then.
        is_group: others wait for the result: not even one message waits; default is that several are a group.

    Returns:
        A result for each message; None where another session has its conversation locked, and nothing was done.

    Raises:
        ConversationRefusedError: the database refused one of them; nothing was changed.
        DatabaseUnavailableError: a pair's conversation kept beginning and ending.
    """
    has_begun = False

    def work() -> Steps[list[MessageResult | None]]:
        nonlocal has_begun
        ids.may_be_there |= has_begun
        has_begun = True
        skips = (len(messages) > 1 if is_group is None else is_group) and sql.shape.dialect != "sqlite"
        group = MessageGroup(sql, messages, ids, is_virtual, skips, [None] * len(messages))
        keys = list(group.pairs)
        for _ in range(MAX_ATTEMPTS):
            # Another session may open a pair's conversation between two statements: that one is there next time.
            keys = yield from _record_pairs(group, keys)
            if not keys:
                ids.results = group.results
                return group.results
        raise DatabaseUnavailableError("the conversation of this pair kept changing; try again")

    results: list[MessageResult | None] = yield Transaction(work)
    return results


def _record_pairs(group: MessageGroup, keys: list[PairKey]) -> Steps[list[PairKey]]:
    """Record the messages of these pairs, and return the pairs that somebody else has opened meanwhile."""
    states, now = yield from _read(group, keys)
    yield from _forget_ids(group, [key for key in keys if key not in states])
    yield from _note_ids(group, states, now)
    changes = Changes(now)
    for key, state in states.items():
        yield from fold(group, changes, key, state)
    conflicts = yield from write(group.sql, changes, is_read_back=not group.is_virtual)
    yield from _answer(group, changes, conflicts)
    return sorted(conflicts)


# --- read -----------------------------------------------------------------------------------------------------------


def _read(group: MessageGroup, keys: Sequence[PairKey]) -> Steps[tuple[dict[PairKey, PairState], datetime]]:
    """Lock and read the pairs' conversations, but for those that another session has locked; the present, read last."""
    sql = group.sql
    lock = "skip" if group.skips_locked else "wait"
    opened = yield from _conversations(sql, statements.open_of_pairs, keys, lock)
    missing = [key for key in keys if key not in opened]
    if group.skips_locked and missing:
        locked = yield from _conversations(sql, statements.open_of_pairs, missing, None)
        keys = [key for key in keys if key not in locked]
        missing = [key for key in missing if key not in locked]
    now: datetime = yield CLOCK
    before = [key for key, conversation in opened.items() if _may_precede(group, key, conversation)]
    latest = yield from _conversations(sql, statements.latest_closed_of_pairs, [*missing, *before])
    return {key: PairState(opened.get(key), latest.get(key)) for key in keys}, now


def _may_precede(group: MessageGroup, key: PairKey, conversation: Conversation) -> bool:
    """Return whether one of the pair's messages was sent before its conversation began."""
    times = (group.messages[place].sent_at for place in group.pairs[key])
    return any(sent_at is not None and sent_at < conversation.started_at for sent_at in times)


def _conversations(
    sql: Statements, build: Any, keys: Sequence[PairKey], *arguments: Any
) -> Steps[dict[PairKey, Conversation]]:
    rows = yield from _each(sql, build, batches.PAIRS, [(n, *key) for n, key in enumerate(keys)], *arguments)
    return {keys[row[0]]: row_to_conversation(row) for row in rows}


def _each(
    sql: Statements, build: Any, kind: batches.Kind, rows: Sequence[tuple[Any, ...]], *arguments: Any, **others: Any
) -> Steps[list[Row]]:
    """Run a statement for these rows: once, but on Citus, where a statement is of one owner, once for each.

    Args:
        sql: the statements.
        build: makes the statement.
        kind: of the rows.
        rows: in the order of the columns of the kind.
        arguments: of `build`.
        others: values of the statement's other parameters.
    """
    is_single = len(rows) == 1 or sql.shape.is_distributed
    found: list[Row] = []
    for part in [[row] for row in rows] if is_single else [rows]:
        if part:
            values = batches.batch(sql.tables, kind, is_single=is_single).values(part)
            found += yield Query(sql(build, is_single, *arguments), values | others)
    return found


# --- message ids ----------------------------------------------------------------------------------------------------


def _note_ids(group: MessageGroup, states: dict[PairKey, PairState], now: datetime) -> Steps[None]:
    """Insert the receipts of messages with ids, of which the first counts, whichever pair it is of."""
    first: dict[ReceiptKey, int] = {}
    for place in sorted(place for key in states for place in group.pairs[key]):
        message = group.messages[place]
        if message.message_id is None or place in group.is_new:
            continue
        group.is_new[place] = False
        receipt = message.receipt_key
        first.setdefault(receipt, place)
        group.guessed[place] = yield from _guess(group, message, states[message.key], now)
    if not first:
        return
    group.first.update(first.values())
    receipts = [(*receipt, group.guessed[place]) for receipt, place in sorted(first.items(), key=lambda item: item[0])]
    for row in (yield from _insert_receipts(group, receipts, now)):
        group.is_new[first[tuple(row)]] = True


def _insert_receipts(group: MessageGroup, receipts: Sequence[tuple[Any, ...]], now: datetime) -> Steps[list[Row]]:
    seen_at = now.replace(microsecond=group.ids.microsecond)
    return (yield from _each(group.sql, statements.insert_receipts, batches.RECEIPTS, receipts, now=seen_at))


def _move_receipts(group: MessageGroup, receipts: Sequence[tuple[Any, ...]], now: datetime) -> Steps[None]:
    """Say of receipts which conversation they belong to; a role may INSERT and DELETE them, and not UPDATE."""
    if group.sql.shape.dialect == "sqlite":
        yield from _each(group.sql, statements.move_receipts, batches.RECEIPTS, receipts)
    else:
        yield from _each(group.sql, statements.delete_receipts, batches.RECEIPTS, receipts)
        yield from _insert_receipts(group, receipts, now)


def _forget_ids(group: MessageGroup, keys: Sequence[PairKey]) -> Steps[None]:
    """Take back what was noted of messages of these pairs, which will be recorded alone.

    Somebody else had opened a pair's conversation meanwhile, and by now another session has it locked.
    """
    noted = []
    for key in keys:
        for place in group.pairs[key]:
            message = group.messages[place]
            if group.is_new.pop(place, False):
                noted.append((*message.receipt_key, None))
            group.guessed.pop(place, None)
            group.first.discard(place)
            group.results[place] = None
    yield from _each(group.sql, statements.delete_receipts, batches.RECEIPTS, sorted(noted))


def _guess(group: MessageGroup, message: CheckedMessage, state: PairState, now: datetime) -> Steps[AnyId | None]:
    """Return the conversation to which a message will most likely belong."""
    if state.open is not None and is_live(state, now):
        return state.open.conv_id
    return (yield from own_id(group, message.key)) if message.opens else None


# --- write ----------------------------------------------------------------------------------------------------------


def write(sql: Statements, changes: Changes, *, is_read_back: bool) -> Steps[set[PairKey]]:
    """Write what the messages do, and return the pairs whose conversation somebody else has opened meanwhile.

    Args:
        sql: the statements.
        changes: to be written.
        is_read_back: read how the conversations are then, beside what others have written to them; a replay is alone.
    """
    updated = [batches.STATES.row_of(one, from_version=changes.before[one.conv_id].version) for one in changes.updated]
    written = yield from _each(sql, statements.update_conversations, batches.STATES, updated, is_read_back)
    opened = changes.opened
    new = [batches.NEW_CONVERSATIONS.row_of(one) for one in opened]
    inserted = yield from _each(sql, statements.insert_conversations, batches.NEW_CONVERSATIONS, new, is_read_back)
    if is_read_back:
        changes.after |= {row.conv_id: row_to_conversation(row) for row in [*written, *inserted]}
    there = {row.conv_id for row in inserted}
    lost = {one.conv_id for one in opened} - there
    # UUIDs are hashed in Python: not for each event where nothing was lost, as nearly always.
    events = [batches.EVENTS.row_of(event) for event in changes.events if not lost or event.conv_id not in lost]
    if sql.shape.dialect == "sqlite" and len(events) > 1:
        yield Query(sql.each(statements.insert_events), events)
    else:
        yield from _each(sql, statements.insert_events, batches.EVENTS, events)
    return {(one.owner_id, one.channel, one.session_key) for one in opened if one.conv_id in lost}


# --- answer ---------------------------------------------------------------------------------------------------------


def _answer(group: MessageGroup, changes: Changes, conflicts: set[PairKey]) -> Steps[None]:
    """Note each message's result, and correct the receipts that name another conversation."""
    moved = []
    for place, effect in changes.effects.items():
        message = group.messages[place]
        if conflicts and message.key in conflicts:
            continue
        conv_id = None if effect.conversation is None else effect.conversation.conv_id
        conversation = None if conv_id is None else changes.after[conv_id]
        expired_id = None if effect.expired is None else effect.expired.conv_id
        group.results[place] = MessageResult(effect.outcome, conversation, expired_id)
        if place in group.guessed and group.guessed[place] != conv_id:
            moved.append((*message.receipt_key, conv_id))
    yield from _move_receipts(group, moved, changes.now)
    copies = [place for place, is_new in group.is_new.items() if not is_new]
    yield from _answer_copies(group, copies, changes.now)


def _answer_copies(group: MessageGroup, places: Sequence[int], now: datetime) -> Steps[None]:
    """Give each copy the conversation of the first; what an earlier attempt recorded is none."""
    messages = [group.messages[place] for place in places]
    keys = sorted({(*message.receipt_key, None) for message in messages})
    rows = yield from _each(group.sql, statements.receipts_of, batches.RECEIPTS, keys)
    receipts = {(row.owner_id, row.channel, row.message_id): row for row in rows}
    of_them = sorted({(row.owner_id, row.conv_id) for row in rows if row.conv_id is not None})
    rows = yield from _each(group.sql, statements.by_keys, batches.KEYS, of_them)
    conversations = {row.conv_id: row_to_conversation(row) for row in rows}
    for place, message in zip(places, messages, strict=True):
        receipt = receipts.get(message.receipt_key)
        outcome = Outcome.COPY
        if receipt is not None and place in group.first and group.ids.made(receipt, now):
            if group.ids.results and (earlier := group.ids.results[place]) is not None:
                group.results[place] = earlier
                continue
            outcome = Outcome.CONTINUED  # by the statement for what means no transition
        conversation = None if receipt is None else conversations.get(receipt.conv_id)
        group.results[place] = MessageResult(outcome, conversation)

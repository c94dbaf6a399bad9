"""Messages that mean no transition: one statement for those of many pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from lapse.checked_message import CheckedMessage, PairKey
from lapse.lifecycle import SENDER_RULES
from lapse.messages import Outcome
from lapse.models import NEVER
from lapse.store.operations.message_group import OwnTraces
from lapse.store.operations.steps import CLOCK, REPEATS, Query, Steps, Transaction
from lapse.store.rows import LazyResult
from lapse.store.statements import LazyRows, Statements, batches
from lapse.store.statements import messages as statements
from lapse.store.statements.recording import add_receipts
from lapse.store.table_mapping import IdKind


class OpenPairs(set[PairKey]):
    """Pairs that had an open conversation when this process last saw them: decides which statement is tried first."""

    MOST = 100_000
    """Some 20 MB."""
    strangers_are_open = True
    """Most of the others were, too, when some were last seen together: as after the start of a process."""

    def note(self, messages: Iterable[CheckedMessage]) -> None:
        """Remember the pairs of these messages; when there are too many, all others are forgotten."""
        if len(self) >= self.MOST:
            self.clear()
        self.update([message.key for message in messages])

    def learn(self, strangers: Sequence[Any]) -> None:
        """Take the results of messages of pairs that were not known."""
        if strangers:
            were_open = [getattr(result, "outcome", None) is Outcome.CONTINUED for result in strangers]
            self.strangers_are_open = 2 * sum(were_open) >= len(were_open)


def is_plural(sql: Statements) -> bool:
    """Return whether one statement can concern several pairs: on Citus a statement is of one owner."""
    return not sql.shape.is_distributed


def with_repeated_ids(messages: Sequence[CheckedMessage]) -> set[PairKey]:
    """Return the pairs of messages that have the id of another one: which is the copy is for the transaction to say.

    There the first of them counts; and a repeated call would take the receipt of one for that of the other.
    """
    ids = [message.receipt_key for message in messages if message.message_id is not None]
    if len(set(ids)) == len(ids):
        return set()
    number = Counter(ids)
    return {message.key for message in messages if number[message.receipt_key] > 1}


def is_activity(messages: Sequence[CheckedMessage], places: Sequence[int]) -> bool:
    """Return whether one statement can do what these messages of one pair mean, if they mean no transition."""
    if len(places) == 1:
        return messages[places[0]].is_activity
    if any(messages[place].message_id is not None for place in places):
        return False  # which of them are copies has to be known before they are summed up
    return all(messages[place].is_activity for place in places)


def record_activities(
    sql: Statements,
    pairs: dict[PairKey, list[int]],
    messages: Sequence[CheckedMessage],
    results: list[Any],
    ids: OwnTraces,
) -> Steps[list[PairKey]]:
    """Record what means no transition, and return the pairs for which that was so."""
    keys = sorted(pairs)
    by_pair = [[messages[place] for place in pairs[key]] for key in keys]
    has_ids = any(of_pair[0].message_id is not None for of_pair in by_pair)
    has_times = any(message.sent_at is not None for of_pair in by_pair for message in of_pair)
    rows: list[tuple[Any, ...]] = [(n, *key, _sides(by_pair[n])) for n, key in enumerate(keys)]
    if has_times:
        rows = [(*row, *_summed_up(of_pair)) for row, of_pair in zip(rows, by_pair, strict=True)]
    if has_ids:
        rows = [(*row, of_pair[0].message_id) for row, of_pair in zip(rows, by_pair, strict=True)]
    kind = batches.activities(has_times=has_times, has_ids=has_ids)
    values = batches.batch(sql.tables, kind, is_single=False).values(rows)
    if has_ids:
        values["microsecond"] = ids.microsecond
    query = Query(sql(statements.record_activities, kind), values, is_lazy=True)
    updated: LazyRows
    if sql.shape.dialect == "sqlite":
        noted = {key: of_pair[0].message_id for key, of_pair in zip(keys, by_pair, strict=True) if has_ids}
        updated, done = yield from _record_in_file(sql, query, noted, ids)
    else:
        updated = yield query
        done = [keys[n] for n in updated.cells.numbers()]
    if has_ids:
        ids.may_be_there |= (yield REPEATS) > 0
    for place_of_row, key in enumerate(done):
        for place in pairs[key]:
            results[place] = LazyResult(updated, place_of_row)
    return done


def _record_in_file(
    sql: Statements, query: Query, message_ids: dict[PairKey, str | None], ids: OwnTraces
) -> Steps[tuple[LazyRows, list[PairKey]]]:
    """Record messages in SQLite, which has no statement that writes two tables: the ids in the same transaction.

    The statement leaves out what was noted before, and nobody writes beside the transaction.
    """

    def work() -> Steps[tuple[LazyRows, list[PairKey]]]:
        updated: LazyRows = yield query
        # SQLite returns columns of the updated table only.
        of_rows: list[Any] = [row[1:4] for row in updated.cells]
        if sql.shape.mapping.kinds["owner_id"] is IdKind.UUID:
            of_rows = [(UUID(owner_id), *others) for owner_id, *others in of_rows]
        if message_ids:
            now: datetime = yield CLOCK
            seen_at = now.replace(microsecond=ids.microsecond)
            receipts = [
                (*key[:2], message_id, row[0], seen_at)
                for key, row in zip(of_rows, updated.cells, strict=True)
                if (message_id := message_ids[key]) is not None
            ]
            if receipts:
                yield Query(sql.each(add_receipts), receipts)
        return updated, of_rows

    done: tuple[LazyRows, list[PairKey]] = (yield Transaction(work)) if message_ids else (yield from work())
    return done


_SIDES = {
    sender: (batches.INBOUND if rule.is_inbound else batches.OUTBOUND) | (batches.ANSWER if rule.answers else 0)
    for sender, rule in SENDER_RULES.items()
}


def _sides(messages: Sequence[CheckedMessage]) -> int:
    sides = 0
    for message in messages:
        sides |= _SIDES[message.sender]
    return sides


def _summed_up(messages: Sequence[CheckedMessage]) -> tuple[datetime | None, ...]:
    """Return the latest and the earliest time, the latest of each side, and the earliest answer."""
    times = [(_SIDES[message.sender], message.sent_at or NEVER) for message in messages]
    every = [at for _, at in times]
    inbound, outbound, answers = (
        [at for sides, at in times if sides & side] for side in (batches.INBOUND, batches.OUTBOUND, batches.ANSWER)
    )
    return max(every), min(every), max(inbound, default=None), max(outbound, default=None), min(answers, default=None)

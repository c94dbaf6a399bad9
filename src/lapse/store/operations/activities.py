"""Messages that mean no transition: one statement for those of many pairs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from lapse.checked_message import CheckedMessage, PairKey
from lapse.lifecycle import SENDER_RULES
from lapse.models import NEVER
from lapse.store.operations.message_group import OwnTraces
from lapse.store.operations.steps import Query, Steps
from lapse.store.rows import LazyResult
from lapse.store.statements import LazyRows, Statements, batches
from lapse.store.statements import messages as statements
from lapse.store.types import json_value


class OpenPairs(set[PairKey]):
    """Pairs that had an open conversation when this process last saw them: decides which statement is tried first."""

    MOST = 100_000
    """Some 20 MB."""

    def add(self, pair: PairKey) -> None:
        """Remember a pair; when there are too many, all others are forgotten."""
        if len(self) >= self.MOST:
            self.clear()
        super().add(pair)


def is_plural(sql: Statements) -> bool:
    """Return whether one statement can concern several pairs: on Citus a statement is of one owner."""
    return not sql.shape.is_distributed


def is_activity(messages: Sequence[CheckedMessage], places: Sequence[int]) -> bool:
    """Return whether one statement can do what these messages of one pair mean, if they mean no transition."""
    if len(places) > 1 and any(messages[place].message_id is not None for place in places):
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
    first = [messages[places[0]] for places in pairs.values()]
    has_ids = any(message.message_id is not None for message in first)
    if has_ids and sql.shape.dialect == "sqlite":
        return []  # it has no statement that writes two tables
    has_times = any(messages[place].sent_at is not None for places in pairs.values() for place in places)
    keys, rows = sorted(pairs), []
    for n, key in enumerate(keys):
        of_pair = [messages[place] for place in pairs[key]]
        times = _summed_up(of_pair) if has_times else ()
        rows.append((n, *key, _sides(of_pair), *times, *((of_pair[0].message_id,) if has_ids else ())))
    kind = batches.activities(has_times=has_times, has_ids=has_ids)
    values = batches.batch(sql.tables, kind, is_single=False).values(rows)
    if has_ids:
        values["microsecond"] = ids.microsecond
    updated: LazyRows = yield Query(sql(statements.record_activities, kind), values, is_lazy=True)
    if sql.shape.dialect == "sqlite":  # which returns columns of the updated table only
        by_pair = {tuple(json_value(value) for value in key): key for key in keys}
        done = [by_pair[row[1], row[2], row[3]] for row in updated.cells]
    else:
        done = [keys[n] for n in updated.cells.numbers()]
    for place_of_row, key in enumerate(done):
        for place in pairs[key]:
            results[place] = LazyResult(updated, place_of_row)
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

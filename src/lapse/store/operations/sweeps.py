"""Sweeps: one batch of due conversations in one transaction, safe with any number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from lapse.errors import ConversationUnchangedError
from lapse.models import MIN_DATETIME, AnyId, SweepResult
from lapse.store.operations.steps import CLOCK, Query, Steps, Transaction
from lapse.store.statements import Rows, Statements
from lapse.store.statements import sweeps as statements
from lapse.store.types import from_utc_text

IDLE_CONVERSATIONS = "idle_conversations"
EXPIRED_CONVERSATIONS = "expired_conversations"
"""The specification's names of the tasks that sweep."""
TASKS = (IDLE_CONVERSATIONS, EXPIRED_CONVERSATIONS)


class SweepKind(NamedTuple):
    """One kind of sweep, with its parameters."""

    specify: statements.Specify
    values: Mapping[str, Any]


EXPIRED = SweepKind(statements.expired, {"new_data": {}, "silent_data": {statements.SILENT: True}})
"""Ends what is past its expiry."""


def idle_sweeps(idle_timeout_seconds: int) -> tuple[SweepKind, SweepKind]:
    """Return the two sweeps that pause what is idle: whose idle check has passed, and those armed longer than this."""
    data = {"idle_timeout_seconds": idle_timeout_seconds}
    values = {
        "idle_timeout": idle_timeout_seconds,
        "new_data": data,
        "silent_data": data | {statements.SILENT: True},
    }
    return SweepKind(statements.idle, values), SweepKind(statements.armed_longer, values)


class Scope(NamedTuple):
    """Which of the due conversations a batch may take."""

    limit: int
    cursor: datetime
    """The last deadline of the batch before, so that dead index entries are not read again."""
    ids: Sequence[AnyId] = ()
    """To leave out; or, where `is_among`, the only ones."""
    is_among: bool = False
    silent_before: datetime | None = None
    """What has its deadline before this moment ends with events that are marked as silent."""


def _values(kind: SweepKind, scope: Scope) -> dict[str, Any]:
    return {
        **kind.values,
        "limit": scope.limit,
        "cursor": scope.cursor,
        "ids": list(scope.ids),
        "silent_before": scope.silent_before,
    }


def sweep_batch(sql: Statements, kind: SweepKind, scope: Scope) -> Steps[SweepResult]:
    """Sweep up to `scope.limit` conversations.

    Raises:
        ConversationRefusedError: a trigger or a constraint refused one of them; nothing was changed.
        StatementTimeoutError: it took too long; nothing was changed.
    """
    values = _values(kind, scope)
    if sql.shape.dialect == "sqlite":
        result: SweepResult = yield Transaction(lambda: _sweep_file(sql, kind, scope, values))
        return result
    if sql.shape.is_distributed:
        values["now"] = yield CLOCK
    # A single statement is a transaction already, and one round trip instead of three.
    totals = (yield Query(sql(statements.sweep_batch, kind.specify, scope.is_among), values)).one()
    return SweepResult(
        claimed=totals.claimed,
        ended=totals.ended,
        rearmed=totals.written - totals.ended,
        last_deadline=totals.last_sort_key if isinstance(totals.last_sort_key, datetime) else None,
        lags_seconds=totals.lags or (),
    )


def _sweep_file(sql: Statements, kind: SweepKind, scope: Scope, values: dict[str, Any]) -> Steps[SweepResult]:
    # Read inside the transaction: the wait for the write lock may have been long.
    values = values | {"now": (yield CLOCK)}
    recorded = yield Query(sql(statements.record_batch, kind.specify, scope.is_among), values)
    updated: Rows = yield Query(sql(statements.update_batch, kind.specify, scope.is_among), values)
    ended = sum(row.makes_transition for row in updated)
    if len(recorded) != ended or (len(updated) < scope.limit and (yield from _is_still_due(sql, kind, scope, values))):
        raise ConversationUnchangedError  # the transaction takes the events back
    lags = [
        lag
        for row in updated
        if row.makes_transition and (lag := _lag_seconds(row.deadline, values["now"])) is not None
    ]
    return SweepResult(claimed=len(updated), ended=ended, rearmed=len(updated) - ended, lags_seconds=lags)


def _is_still_due(sql: Statements, kind: SweepKind, scope: Scope, values: dict[str, Any]) -> Steps[bool]:
    statement = sql(statements.select_due_ids, kind.specify, scope.is_among)
    return bool((yield Query(statement, values | {"limit": 1})))


def _lag_seconds(deadline: str | None, now: datetime) -> float | None:
    try:
        moment = from_utc_text(deadline)
    except (TypeError, ValueError):
        return None
    return None if moment is None else (now - moment).total_seconds()


def select_due_ids(sql: Statements, kind: SweepKind, scope: Scope) -> Steps[list[AnyId]]:
    """Return what `sweep_batch` would claim, in the order of the deadlines; nothing is locked or changed."""
    values = _values(kind, scope)
    if sql.shape.is_distributed:
        values["now"] = yield CLOCK
    rows = yield Query(sql(statements.select_due_ids, kind.specify, scope.is_among), values)
    return [row.conv_id for row in rows]


def pause_idle(sql: Statements, idle_timeout_seconds: int, limit: int) -> Steps[int]:
    """Pause up to `limit` conversations by both sweeps of what is idle, and return how many were paused.

    Raises:
        ConversationRefusedError: a trigger or a constraint refused one of them.
    """
    ended = 0
    for kind in idle_sweeps(idle_timeout_seconds):
        after = MIN_DATETIME
        while ended < limit:
            result = yield from sweep_batch(sql, kind, Scope(limit - ended, after))
            # Rows that were only re-armed must not use up the caller's limit.
            is_last, ended = result.claimed < limit - ended, ended + result.ended
            if is_last:
                break
            after = result.last_deadline or after
    return ended


def end_expired(sql: Statements, limit: int) -> Steps[int]:
    """End one batch of what is past its expiry, and return how many were ended; errors as `pause_idle`."""
    result = yield from sweep_batch(sql, EXPIRED, Scope(limit, MIN_DATETIME))
    return result.ended

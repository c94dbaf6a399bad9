"""Sweeps: one batch of due conversations in one transaction, safe with any number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from lapse.errors import ConversationUnchangedError
from lapse.models import MIN_DATETIME, AnyId, SweepResult
from lapse.store.operations.batch_bisector import REFUSALS, BatchBisector
from lapse.store.operations.steps import CLOCK, Query, Steps, Transaction
from lapse.store.statements import Rows, Statements
from lapse.store.statements import sweeps as statements
from lapse.store.types import from_utc_text

IDLE_CONVERSATIONS = "idle_conversations"
EXPIRED_CONVERSATIONS = "expired_conversations"
"""The specification's names of the tasks that sweep."""
TASKS = (IDLE_CONVERSATIONS, EXPIRED_CONVERSATIONS)
MAX_REFUSED = 1_000
"""Conversations that one call goes past because the database refused to end them: some seconds."""


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


# --- all of one call --------------------------------------------------------------------------------------------------


class _Tally:
    """What a call has done so far."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.ended = 0
        self.refused: list[AnyId] = []
        self.reason: Exception | None = None
        """Why the latest one was refused."""

    @property
    def is_over(self) -> bool:
        return self.ended >= self.limit or len(self.refused) >= MAX_REFUSED


def end_due(sql: Statements, kinds: Sequence[SweepKind], limit: int) -> Steps[int]:
    """End up to `limit` conversations by these sweeps, one after the other, and return how many were ended.

    What the database refuses to end is left out, up to `MAX_REFUSED` conversations.

    Raises:
        ConversationRefusedError: nothing was ended, and a trigger or a constraint refused.
        StatementTimeoutError: nothing was ended, and even one conversation took too long.
    """
    tally = _Tally(limit)
    for kind in kinds:
        yield from _drain(sql, kind, tally)
    reason, tally.reason = tally.reason, None
    try:
        if reason is not None and not tally.ended:
            raise reason
    finally:
        reason = None  # it knows this frame
    return tally.ended


def _drain(sql: Statements, kind: SweepKind, tally: _Tally) -> Steps[None]:
    cursor = MIN_DATETIME
    while not tally.is_over:
        # Rows that were only re-armed must not use up the caller's limit.
        scope = Scope(tally.limit - tally.ended, cursor, tuple(tally.refused))
        outcome = yield from _try_batch(sql, kind, scope)
        if isinstance(outcome, Exception) or outcome.changed_nothing:
            outcome = yield from _bisect(sql, kind, scope, outcome, tally)
        tally.ended += outcome.ended
        if outcome.claimed < scope.limit:
            return
        cursor = outcome.last_deadline or cursor


def _bisect(
    sql: Statements, kind: SweepKind, scope: Scope, outcome: SweepResult | Exception | None, tally: _Tally
) -> Steps[SweepResult]:
    """Sweep what is not refused of a batch that came to this as a whole; one that claimed nothing is the last."""
    ids = yield from select_due_ids(sql, kind, scope)
    bisector, refused_before = BatchBisector(ids), len(tally.refused)
    tally.reason = outcome if isinstance(outcome, Exception) else tally.reason
    for part in bisector:
        if tally.is_over:
            break
        if outcome is None:
            among = Scope(len(part), MIN_DATETIME, part, is_among=True)
            outcome = yield from _try_batch(sql, kind, among)
        reason, outcome = bisector.record(part, outcome), None
        if reason is not None:
            tally.refused.append(part[0])
            tally.reason = reason
    # Somebody else may hold all that can be seen: then this would go on for as long.
    has_progress = bisector.ended or bisector.rearmed or len(tally.refused) > refused_before
    return SweepResult(
        claimed=len(ids) if has_progress else 0, ended=bisector.ended, last_deadline=bisector.last_deadline
    )


def _try_batch(sql: Statements, kind: SweepKind, scope: Scope) -> Steps[SweepResult | Exception]:
    try:
        return (yield from sweep_batch(sql, kind, scope))
    except REFUSALS as error:
        return error


def pause_idle(sql: Statements, idle_timeout_seconds: int, limit: int) -> Steps[int]:
    """Pause up to `limit` conversations by both sweeps of what is idle; result and errors as `end_due`."""
    return (yield from end_due(sql, idle_sweeps(idle_timeout_seconds), limit))


def end_expired(sql: Statements, limit: int) -> Steps[int]:
    """End up to `limit` conversations that are past their expiry; result and errors as `end_due`."""
    return (yield from end_due(sql, (EXPIRED,), limit))

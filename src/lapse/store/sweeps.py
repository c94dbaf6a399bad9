"""Sweeps: one batch of due conversations in one transaction, safe with any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from lapse.errors import ConversationUnchangedError
from lapse.models import AnyId, SweepResult
from lapse.store import sweep_statements
from lapse.store.connection import Connection, Rows
from lapse.store.database import Database
from lapse.store.driver_errors import UnsupportedStatementError
from lapse.store.statements import BEGINNING_OF_TIME, BOUND_NOW, Now
from lapse.store.sweep_statements import AMONG_IDS, SILENT
from lapse.store.types import from_utc_text


class Sweeper:
    """The sweeps of one database."""

    def __init__(self, database: Database) -> None:
        """Build the statements once: they are the same for every batch."""
        self._database = database
        self.silent_before: datetime | None = None
        """What has its deadline before this moment ends with events that are marked as silent."""
        self._expired = _forms(database, sweep_statements.expired_sweep)
        self._idle = _forms(database, sweep_statements.idle_sweep)
        self._armed_longer = _forms(database, partial(sweep_statements.idle_sweep, armed_longer=True))

    def expired(self) -> BoundSweep:
        """Return the sweep that ends what is past its expiry."""
        return self._bound(self._expired, {"new_data": {}})

    def idle(self, idle_timeout: timedelta) -> BoundSweep:
        """Return the sweep that pauses or re-arms active conversations whose idle check has passed."""
        return self._bound(self._idle, _idle_parameters(idle_timeout))

    def armed_longer(self, idle_timeout: timedelta) -> BoundSweep:
        """Return the sweep that pauses or re-arms active conversations armed with a longer idle timeout."""
        return self._bound(self._armed_longer, _idle_parameters(idle_timeout))

    def pause_idle(self, idle_timeout: timedelta, limit: int) -> int:
        """Pause up to `limit` conversations by both sweeps of what is idle, and return how many were paused.

        Raises:
            ConversationRefusedError: a trigger or a constraint refused one of them.
            DatabaseError: the database refused, or stayed out of reach.
        """
        ended = 0
        for sweep in (self.idle(idle_timeout), self.armed_longer(idle_timeout)):
            after = BEGINNING_OF_TIME
            while ended < limit:
                result = sweep.sweep(limit - ended, after, retry=True)
                # Rows that were only re-armed must not use up the caller's limit.
                is_last, ended = result.claimed < limit - ended, ended + result.ended
                if is_last:
                    break
                after = result.last_deadline or after
        return ended

    def _bound(self, forms: _Forms, parameters: dict[str, Any]) -> BoundSweep:
        silent_data = parameters["new_data"] | {SILENT: True}
        return BoundSweep(self, self._database, forms, parameters | {"silent_data": silent_data})


@dataclass(frozen=True, slots=True)
class _Statements:
    """One kind of sweep: a batch that leaves some conversations out, one of certain ones only, and a look."""

    without: list[Any]
    only: list[Any]
    look: sa.Select[Any]

    @classmethod
    def of(cls, database: Database, make: _MakeSweep, *, is_distributed: bool) -> _Statements:
        now = BOUND_NOW if is_distributed else database.now_expression
        sweep = make(now)

        def batch(scope: sa.ColumnElement[bool]) -> list[Any]:
            return sweep_statements.sweep_statements(database.dialect, sweep, now, scope, is_distributed=is_distributed)

        return cls(batch(~AMONG_IDS), batch(AMONG_IDS), sweep_statements.look_at(sweep, ~AMONG_IDS))


_MakeSweep = Callable[[Now], sweep_statements.Sweep]
_Forms = dict[bool, _Statements]
"""The statements by whether the tables are distributed."""


def _forms(database: Database, make: _MakeSweep) -> _Forms:
    return {form: _Statements.of(database, make, is_distributed=form) for form in (False, True)}


class BoundSweep:
    """One kind of sweep in one database, with its parameters."""

    def __init__(self, sweeper: Sweeper, database: Database, forms: _Forms, parameters: dict[str, Any]) -> None:
        """Bind them; nothing is run."""
        self._sweeper = sweeper
        self._database = database
        self._forms = forms
        self._parameters = parameters

    def sweep(
        self, limit: int, after: datetime = BEGINNING_OF_TIME, without: Sequence[AnyId] = (), *, retry: bool = False
    ) -> SweepResult:
        """Sweep up to `limit` conversations, from the deadline `after` on, in one transaction.

        Args:
            limit: conversations at most.
            after: the last deadline of the batch before, so that dead index entries aren't walked again.
            without: conversations to leave out.
            retry: try again where the database is not available for a moment; a worker has its own way to do so.

        Raises:
            ConversationRefusedError: a trigger or a constraint refused one of them; nothing was changed.
            StatementTimeoutError: it took too long; nothing was changed.
            DatabaseError: the database refused, or cannot be reached.
        """
        return self._run(lambda form: form.without, self._scope(limit, after, without), retry=retry)

    def sweep_only(self, ids: Sequence[AnyId]) -> SweepResult:
        """Sweep those of these conversations that are due, in one transaction; errors as `sweep`."""
        return self._run(lambda form: form.only, self._scope(len(ids), BEGINNING_OF_TIME, ids))

    def look(self, limit: int, after: datetime = BEGINNING_OF_TIME, without: Sequence[AnyId] = ()) -> list[AnyId]:
        """Return what `sweep` would claim; nothing is locked or changed."""
        is_distributed = self._database.is_distributed(retry=False)

        def work(connection: Connection) -> Rows:
            values = self._scope(limit, after, without) | self._now(connection, is_distributed)
            return connection.execute(self._forms[is_distributed].look, values)

        return [row.conv_id for row in self._database.autocommit(work, reads_only=True, retry=False)]

    def _scope(self, limit: int, after: datetime, ids: Sequence[AnyId]) -> dict[str, Any]:
        silent_before = self._sweeper.silent_before
        return self._parameters | {"limit": limit, "after": after, "ids": list(ids), "silent_before": silent_before}

    def _run(
        self, choose: Callable[[_Statements], list[Any]], parameters: dict[str, Any], *, retry: bool = False
    ) -> SweepResult:
        is_distributed = self._database.is_distributed(retry=retry)
        batch = choose(self._forms[is_distributed])

        def work(connection: Connection) -> SweepResult:
            # The clock is read inside the transaction: on SQLite the wait for the write lock may have been long.
            values = parameters | self._now(connection, is_distributed)
            results = [connection.execute(statement, values) for statement in batch]
            return _result_of(results, values)

        # A single statement is a transaction already, and one round trip instead of three.
        run = self._database.autocommit if len(batch) == 1 else self._database.transaction
        try:
            return run(work, retry=retry)
        except UnsupportedStatementError:
            if self._database.is_distributed(look_again=True, retry=retry) == is_distributed:
                raise
        # The tables were distributed while the worker ran.
        return self._run(choose, parameters, retry=retry)

    def _now(self, connection: Connection, is_distributed: bool) -> dict[str, Any]:
        return {"now": self._database.read_clock(connection)} if is_distributed else self._database.now_parameters


def _idle_parameters(idle_timeout: timedelta) -> dict[str, Any]:
    seconds = round(idle_timeout.total_seconds())
    return {"idle_timeout": seconds, "new_data": {"idle_timeout_seconds": seconds}}


def _result_of(results: list[Rows], values: dict[str, Any]) -> SweepResult:
    if len(results) == 1:
        totals = results[0].one()
        last = totals.last_place if isinstance(totals.last_place, datetime) else None
        return SweepResult(
            claimed=totals.claimed,
            ended=totals.ended,
            rearmed=totals.written - totals.ended,
            last_deadline=last,
            lags_seconds=totals.lags or (),
        )
    recorded, updated, still_due = results
    ended = sum(row.ends for row in updated)
    if len(recorded) != ended or (len(updated) < values["limit"] and still_due):
        raise ConversationUnchangedError  # the transaction takes the events back
    lags = [lag for row in updated if row.ends and (lag := _lag(row.deadline, values["now"])) is not None]
    return SweepResult(claimed=len(updated), ended=ended, rearmed=len(updated) - ended, lags_seconds=lags)


def _lag(deadline: str | None, now: datetime) -> float | None:
    try:
        moment = from_utc_text(deadline)
    except (TypeError, ValueError):
        return None
    return None if moment is None else (now - moment).total_seconds()

"""Sweeps: one batch of due conversations in one transaction, safe with any number of workers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from lapse.models import SweepResult
from lapse.store import sweep_statements
from lapse.store.connection import Connection, Rows
from lapse.store.database import Database


class Sweeper:
    """The sweeps of one database."""

    def __init__(self, database: Database) -> None:
        """Build the statements once: they are the same for every batch."""
        self._database = database
        now = database.now_expression
        self._expired = self._statements(sweep_statements.expired_sweep(now))
        self._idle = self._statements(sweep_statements.idle_sweep(now))
        self._armed_longer = self._statements(sweep_statements.idle_sweep(now, armed_longer=True))

    def expired(self, limit: int, after: datetime) -> SweepResult:
        """End up to `limit` conversations whose expiry has passed, from the expiry `after` on."""
        return self._sweep(self._expired, {"limit": limit, "after": after, "new_data": {}})

    def idle(self, idle_timeout: timedelta, limit: int, after: datetime) -> SweepResult:
        """Pause or re-arm up to `limit` active conversations whose idle check has passed, from `after` on."""
        return self._sweep(self._idle, _idle_parameters(idle_timeout, limit) | {"after": after})

    def armed_longer(self, idle_timeout: timedelta, limit: int) -> SweepResult:
        """Pause or re-arm up to `limit` active conversations that were armed with a longer idle timeout."""
        return self._sweep(self._armed_longer, _idle_parameters(idle_timeout, limit))

    def _statements(self, sweep: sweep_statements.Sweep) -> list[Any]:
        return sweep_statements.sweep_statements(self._database.dialect, sweep, self._database.now_expression)

    def _sweep(self, batch: list[Any], parameters: dict[str, Any]) -> SweepResult:
        def work(connection: Connection) -> SweepResult:
            # The clock is read inside the transaction: on SQLite the wait for the write lock may have been long.
            values = parameters | self._database.now_parameters
            results = [connection.execute(statement, values) for statement in batch]
            return _result_of(results[-1])

        # A single statement is a transaction already, and one round trip instead of three.
        run = self._database.autocommit if len(batch) == 1 else self._database.transaction
        return run(work, retry=False)


def _idle_parameters(idle_timeout: timedelta, limit: int) -> dict[str, Any]:
    seconds = round(idle_timeout.total_seconds())
    return {"limit": limit, "idle_timeout": seconds, "new_data": {"idle_timeout_seconds": seconds}}


def _result_of(result: Rows) -> SweepResult:
    if len(result) == 1 and hasattr(result[0], "claimed"):
        totals = result.one()
        last = totals.last_place if isinstance(totals.last_place, datetime) else None
        return SweepResult(
            claimed=totals.claimed,
            ended=totals.ended,
            rearmed=totals.written - totals.ended,
            last_deadline=last,
        )
    ended = sum(row.ends for row in result)
    return SweepResult(claimed=len(result), ended=ended, rearmed=len(result) - ended)

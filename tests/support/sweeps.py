"""Single sweeps, for tests of what one batch does."""

from __future__ import annotations

from datetime import datetime, timedelta

from lapse import Database, SweepResult
from lapse.models import MIN_DATETIME
from lapse.store.operations.sweeps import EXPIRED, Scope, SweepKind, idle_sweeps, sweep_batch


def _sweep(database: Database, kind: SweepKind, limit: int, after: datetime) -> SweepResult:
    return database.run(sweep_batch, kind, Scope(limit, after))


def sweep_idle(
    database: Database, idle_timeout: timedelta, limit: int = 100, after: datetime = MIN_DATETIME
) -> SweepResult:
    """Pause or re-arm one batch of conversations whose idle check has passed."""
    return _sweep(database, idle_sweeps(round(idle_timeout.total_seconds()))[0], limit, after)


def sweep_armed_longer(
    database: Database, idle_timeout: timedelta, limit: int = 100, after: datetime = MIN_DATETIME
) -> SweepResult:
    """Pause or re-arm one batch of conversations that were armed with a longer idle timeout than this."""
    return _sweep(database, idle_sweeps(round(idle_timeout.total_seconds()))[1], limit, after)


def sweep_expired(database: Database, limit: int = 100, after: datetime = MIN_DATETIME) -> SweepResult:
    """End one batch of what is past its expiry."""
    return _sweep(database, EXPIRED, limit, after)

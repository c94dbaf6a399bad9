"""What a task has done so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass
class TaskMetrics:
    """Totals of one task since the worker was made."""

    total_runs: int = 0
    successful_runs: int = 0
    failed_runs: int = 0
    total_items_processed: int = 0
    last_run_at: datetime | None = None
    total_execution_time_seconds: float = 0.0
    total_items_refused: int = 0
    """How often the database refused to end a conversation, which was then set aside."""
    last_error: str | None = None
    """Why the latest run failed; None when it succeeded."""

    def record_success(self, items: int, seconds: float) -> None:
        """Count a run that ended `items` conversations in `seconds`."""
        self.successful_runs += 1
        self.total_items_processed += items
        self._record(seconds, None)

    def record_failure(self, error: str, seconds: float, items: int = 0) -> None:
        """Count a run that failed after `seconds`, when it had ended `items` conversations."""
        self.failed_runs += 1
        self.total_items_processed += items
        self._record(seconds, error)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-ready, with the rates that people ask for."""
        runs = max(self.total_runs, 1)
        return asdict(self) | {
            "last_run_at": self.last_run_at.isoformat() if self.last_run_at else None,
            "success_rate": self.successful_runs / runs,
            "average_execution_time_seconds": self.total_execution_time_seconds / runs,
        }

    def _record(self, seconds: float, error: str | None) -> None:
        self.total_runs += 1
        self.total_execution_time_seconds += seconds
        self.last_run_at = datetime.now(UTC)
        self.last_error = error

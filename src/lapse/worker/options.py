"""How a worker works: from arguments and settings, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lapse.arguments import MAX_BACKLOG, check_limit
from lapse.errors import InvalidInputError
from lapse.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The options of `BackgroundWorker`, which says what they mean.

    Raises:
        InvalidInputError: one is not usable.
    """

    interval_seconds: float
    min_wait_seconds: float
    batch_size: int | None
    max_rate: float | None
    enable_metrics: bool
    backlog_limit: int
    accept_backlog: bool
    expire_silently: bool

    @classmethod
    def of(cls, settings: Settings, **arguments: Any) -> WorkerOptions:
        """Return the arguments, and the settings for those that are None."""
        return cls(**{name: getattr(settings, name) if given is None else given for name, given in arguments.items()})

    def __post_init__(self) -> None:
        if not 0 < self.interval_seconds <= 24 * 60 * 60:
            raise InvalidInputError(
                f"an interval must be more than 0 and at most 86400 seconds, not {self.interval_seconds!r}"
            )
        if self.batch_size is not None:
            check_limit(self.batch_size)
        if not 0 <= self.min_wait_seconds < math.inf:
            raise InvalidInputError(f"min_wait_seconds must be 0 or more and finite, not {self.min_wait_seconds!r}")
        if self.max_rate is not None and not 0 < self.max_rate < math.inf:
            raise InvalidInputError(f"max_rate must be more than 0 and finite, not {self.max_rate!r}")
        if not 0 <= self.backlog_limit <= MAX_BACKLOG:
            raise InvalidInputError(f"backlog_limit must be 0 to {MAX_BACKLOG}, not {self.backlog_limit!r}")
        if self.accept_backlog and self.expire_silently:
            raise InvalidInputError("a backlog is accepted or expired silently, not both: choose one")

    def as_log_fields(self) -> dict[str, Any]:
        """Return what a log line says of them."""
        return {
            "interval_seconds": self.interval_seconds,
            "min_wait_seconds": self.min_wait_seconds,
            "batch_size": self.batch_size or "adaptive",
            "max_rate": self.max_rate,
        }

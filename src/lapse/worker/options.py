"""How a worker works: from arguments and settings, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lapse.errors import InvalidInputError
from lapse.settings import Settings, check_setting


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
        for name in ("interval_seconds", "min_wait_seconds", "batch_size", "max_rate", "backlog_limit"):
            # The setting's own rule: one bound, wherever the value was given.
            object.__setattr__(self, name, check_setting(name, getattr(self, name)))
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

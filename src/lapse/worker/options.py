"""The options of a worker, from arguments and settings, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lapse.addresses import shown
from lapse.errors import InvalidInputError
from lapse.service import ConversationService
from lapse.settings import Settings, check_setting
from lapse.shutdown import StopEvent
from lapse.validation import check_flag, real_number


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The options of `BackgroundWorker`, which documents them.

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
    def from_settings(cls, settings: Settings, **arguments: Any) -> WorkerOptions:
        """Return the arguments, and the settings for those that are None."""
        of_settings = {name for name, given in arguments.items() if given is None and name in Settings.model_fields}
        return cls(**arguments | {name: getattr(settings, name) for name in of_settings})

    def __post_init__(self) -> None:
        for name in ("interval_seconds", "min_wait_seconds", "batch_size", "max_rate", "backlog_limit"):
            self._keep(name, getattr(self, name))
        for name in ("enable_metrics", "accept_backlog", "expire_silently"):
            check_flag(name, getattr(self, name))
        if self.accept_backlog and self.expire_silently:
            raise InvalidInputError("a backlog is accepted or expired silently, not both: choose one")

    def _keep(self, name: str, given: Any) -> None:
        if given is not None:
            number = real_number(given)
            if number is None:
                raise InvalidInputError(f"{name}={shown(given)} is not usable: it is no finite number")
            # The setting's own rule: one bound, wherever the value was given.
            given = check_setting(name, given if isinstance(given, int | float) else number)
        object.__setattr__(self, name, given)

    def as_log_fields(self) -> dict[str, Any]:
        """Return the options that are logged at the start."""
        return {
            "interval_seconds": self.interval_seconds,
            "min_wait_seconds": self.min_wait_seconds,
            "batch_size": self.batch_size or "adaptive",
            "max_rate": self.max_rate,
        }


def check_parts(
    service: ConversationService | None, settings: Settings | None, stop_event: StopEvent | None, report: object
) -> None:
    """Check the types of a worker's other arguments.

    Raises:
        InvalidInputError: one of them is something else.
    """
    parts: dict[str, tuple[object, type]] = {
        "service": (service, ConversationService),
        "settings": (settings, Settings),
        "stop_event": (stop_event, StopEvent),
    }
    for name, (given, kind) in parts.items():
        if given is not None and not isinstance(given, kind):
            raise InvalidInputError(f"{name} must be a {kind.__name__}, not {shown(given)}")
    if not callable(report):
        raise InvalidInputError(f"report must be a function, not {shown(report)}")

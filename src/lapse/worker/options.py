"""How a worker works: from arguments and settings, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lapse.addresses import shown
from lapse.arguments import MAX_BACKLOG, check_between, check_flag, check_limit, real_number
from lapse.errors import InvalidInputError
from lapse.service import ConversationService
from lapse.settings import Settings
from lapse.stopping import StopFlag

_LONGEST_INTERVAL = 24 * 60 * 60


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
        of_settings = {name for name, given in arguments.items() if given is None and name in Settings.model_fields}
        return cls(**arguments | {name: getattr(settings, name) for name in of_settings})

    def __post_init__(self) -> None:
        most = _LONGEST_INTERVAL
        interval = f"an interval must be more than 0 and at most {most} seconds"
        self._keep_number("interval_seconds", interval, above=0, most=most)
        self._keep_number("min_wait_seconds", "min_wait_seconds must be 0 or more and finite", least=0)
        if self.batch_size is not None:
            self._keep("batch_size", check_limit(self.batch_size))
        if self.max_rate is not None:
            self._keep_number("max_rate", "max_rate must be more than 0 and finite", above=0)
        self._keep("backlog_limit", check_between("backlog_limit", self.backlog_limit, 0, MAX_BACKLOG))
        for name in ("enable_metrics", "accept_backlog", "expire_silently"):
            check_flag(name, getattr(self, name))
        if self.accept_backlog and self.expire_silently:
            raise InvalidInputError("a backlog is accepted or expired silently, not both: choose one")

    def _keep_number(
        self, name: str, rule: str, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
    ) -> None:
        given = getattr(self, name)
        number = real_number(given)
        if number is None or not least <= number <= most or number <= above:
            raise InvalidInputError(f"{rule}, not {shown(given)}")
        self._keep(name, given if isinstance(given, int | float) else number)

    def _keep(self, name: str, value: float) -> None:
        object.__setattr__(self, name, value)

    def as_log_fields(self) -> dict[str, Any]:
        """Return what a log line says of them."""
        return {
            "interval_seconds": self.interval_seconds,
            "min_wait_seconds": self.min_wait_seconds,
            "batch_size": self.batch_size or "adaptive",
            "max_rate": self.max_rate,
        }


def check_parts(
    service: ConversationService | None, settings: Settings | None, stop_flag: StopFlag | None, report: object
) -> None:
    """Check what a worker is made of, besides its options.

    Raises:
        InvalidInputError: one of them is something else.
    """
    parts: dict[str, tuple[object, type]] = {
        "service": (service, ConversationService),
        "settings": (settings, Settings),
        "stop_flag": (stop_flag, StopFlag),
    }
    for name, (given, kind) in parts.items():
        if given is not None and not isinstance(given, kind):
            raise InvalidInputError(f"{name} must be a {kind.__name__}, not {shown(given)}")
    if not callable(report):
        raise InvalidInputError(f"report must be a function, not {shown(report)}")

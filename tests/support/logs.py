"""Log records of lapse, as an application's handler gets them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append({**record.lapse, "log_level": record.levelname.lower()})  # type: ignore[attr-defined]


@contextmanager
def captured_events() -> Iterator[list[dict[str, Any]]]:
    """Hand out the events that lapse logs meanwhile, each with its fields and its `log_level`."""
    logger, keeper = logging.getLogger("lapse"), _Keeper()
    level = logger.level
    logger.addHandler(keeper)
    logger.setLevel(logging.DEBUG)
    try:
        yield keeper.events
    finally:
        logger.setLevel(level)
        logger.removeHandler(keeper)

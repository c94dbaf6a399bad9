"""Logging: JSON lines for machines, readable lines for a terminal. Never a variable's value in a traceback."""

from __future__ import annotations

import logging
from typing import TextIO

import structlog


def configure_logging(level: str, stream: TextIO) -> None:
    """Send lapse's log lines of `level` and above to `stream`."""
    renderers: list[structlog.typing.Processor]
    if stream.isatty():
        # The default would print the values of variables, which hold addresses.
        renderers = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )

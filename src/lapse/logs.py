"""Logging: JSON lines for machines, readable lines for a terminal. Never a variable's value, never a whole address."""

from __future__ import annotations

import logging
from typing import Any, TextIO

import structlog

from lapse.addresses import mask_addresses

_NOT_MASKED = frozenset({"conv_id", "timestamp"})
"""Values that are no address, though a part of them may look like one."""
_json = structlog.processors.JSONRenderer()


def configure_logging(level: str, stream: TextIO) -> None:
    """Send lapse's log lines of `level` and above to `stream`, and the warnings of the libraries below it."""
    first: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The default would print the values of variables, which hold addresses.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: structlog.typing.Processor = console if stream.isatty() else _json
    last: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, _mask, renderer]
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        # Not `PrintLogger`, which writes the line's end by itself: another thread's line may come in between.
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(level, stream, [*first, _library], last)


def _configure_libraries(
    level: str,
    stream: TextIO,
    before: list[structlog.typing.Processor],
    after: list[structlog.typing.Processor],
) -> None:
    """Let what psycopg, Alembic, waitress and Python's own warnings have to say come out in the same form."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *after],
        )
    )
    least = max(logging.WARNING, logging.getLevelNamesMapping()[level])
    logging.basicConfig(level=least, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # A line for each request that waits a moment for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


def _library(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Say which library speaks."""
    event["library"] = event["_record"].name
    return event


def _mask(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Mask what looks like an address: the last defence, for texts that others wrote."""
    for name, value in event.items():
        if isinstance(value, str) and name not in _NOT_MASKED:
            event[name] = mask_addresses(value)
    return event

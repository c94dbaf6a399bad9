"""Logging: events with fields, through the standard `logging`, without values of variables or complete addresses.

As a library, lapse leaves output to the application's handlers: it prints and configures nothing. The command writes
JSON lines, or readable lines to a terminal.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

from lapse.addresses import mask_addresses

if TYPE_CHECKING:
    import structlog

_ROOT = "lapse"
_ATTRIBUTE = "lapse"
"""Attribute of a log record: a dict of the event and its fields."""
_NOT_MASKED = frozenset({"conv_id", "timestamp"})
"""Fields that never contain an address, though a part of their value may look like one."""

# Without a handler anywhere, `logging` would print warnings to standard error.
logging.getLogger(_ROOT).addHandler(logging.NullHandler())


class EventLogger:
    """Logs events. A record's message contains the fields as text; its attribute `lapse` is a dict of them."""

    def __init__(self, name: str) -> None:
        """Log to the logger of this name: `lapse` or a descendant."""
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: Any) -> None:
        """Log an expected event."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log a problem that lapse handles."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log a failure; the field `exception` is a traceback."""
        self._log(logging.ERROR, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        fields = _masked(fields)
        text = " ".join([event, *(f"{name}={value!r}" for name, value in fields.items() if name != "exception")])
        if "exception" in fields:
            text += f"\n{fields['exception']}"
        extra = {_ATTRIBUTE: {**fields, "event": event}}
        self._logger.log(level, "%s", text, extra=extra, stacklevel=3)


def configure_logging(level: str, stream: TextIO) -> None:
    """Configure the command's logging: `level` and above of lapse, warnings of the libraries it uses, to `stream`.

    A failure to write (a full disk, a closed pipe) loses lines, but interrupts nothing.
    """
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The default prints the values of variables, which contain addresses.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: structlog.typing.Processor = console if stream.isatty() else structlog.processors.JSONRenderer()
    handler = _StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_own_fields, *shared, _library],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _mask,
                renderer,
            ],
        )
    )
    number = logging.getLevelNamesMapping()[level]
    # Only warnings from psycopg, Alembic, waitress and Python itself.
    logging.basicConfig(level=max(logging.WARNING, number), handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger(_ROOT).setLevel(number)
    # It logs a warning for each request that waits for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # Give the same form to what other code in this process logs with structlog.
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class _StreamHandler(logging.StreamHandler[TextIO]):
    """Ignores failures to write: the work is more important than its log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is of `logging`
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handleError(record)


def _own_fields(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace the message of lapse's own events by their fields."""
    own = getattr(event["_record"], _ATTRIBUTE, None)
    return event if own is None else {**{name: event[name] for name in event if name != "event"}, **own}


def _library(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add the logger's name to events of other libraries."""
    if not hasattr(event["_record"], _ATTRIBUTE):
        event["library"] = event["_record"].name
    return event


def _mask(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Mask whatever looks like an address: the last defence, for texts of other libraries."""
    return _masked(event)


def _masked(fields: structlog.typing.EventDict) -> dict[str, Any]:
    return {
        name: mask_addresses(value) if isinstance(value, str) and name not in _NOT_MASKED else value
        for name, value in fields.items()
    }

"""Logging: events with fields, through the standard `logging`. Never a variable's value, never a whole address.

In an application its handlers decide what becomes of them: lapse prints nothing and configures nothing. The command
writes JSON lines for machines, readable lines for a terminal.
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
"""Of a log record: the event and its fields, as values."""
_NOT_MASKED = frozenset({"conv_id", "timestamp"})
"""Values that are no address, though a part of them may look like one."""

# Without a handler anywhere, `logging` would print warnings to standard error.
logging.getLogger(_ROOT).addHandler(logging.NullHandler())


class EventLogger:
    """Logs events: the text of a record says the fields, its attribute `lapse` (from `extra`) is the dict of them."""

    def __init__(self, name: str) -> None:
        """Log as the logger of this name, `lapse` or one below it."""
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: Any) -> None:
        """Log that something happened as it should."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log that something went wrong that lapse copes with."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log that something could not be done; the field `exception` is a traceback."""
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
    """Send lapse's lines of `level` and above to `stream`, and the warnings of the libraries below it: for the command.

    A stream that cannot be written (a full disk, a reader that has gone) loses its lines, and stops nothing.
    """
    import structlog

    first: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The default would print the values of variables, which hold addresses.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: structlog.typing.Processor = console if stream.isatty() else structlog.processors.JSONRenderer()
    handler = _StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_own_fields, *first, _library],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _mask,
                renderer,
            ],
        )
    )
    number = logging.getLevelNamesMapping()[level]
    # psycopg, Alembic, waitress and Python's own warnings: only what is wrong.
    logging.basicConfig(level=max(logging.WARNING, number), handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger(_ROOT).setLevel(number)
    # A line for each request that waits a moment for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # What others log with structlog in this process comes out in the same form.
    structlog.configure(
        processors=[*first, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


class _StreamHandler(logging.StreamHandler[TextIO]):
    """Writes lines while that is possible: what is logged is not worth the work that it tells of."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is of `logging`
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handleError(record)


def _own_fields(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put the fields of lapse's own events in the place of their text."""
    own = getattr(event["_record"], _ATTRIBUTE, None)
    return event if own is None else {**{name: event[name] for name in event if name != "event"}, **own}


def _library(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Say which library speaks."""
    if not hasattr(event["_record"], _ATTRIBUTE):
        event["library"] = event["_record"].name
    return event


def _mask(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Mask what looks like an address: the last defence, for texts that others wrote."""
    return _masked(event)


def _masked(fields: structlog.typing.EventDict) -> dict[str, Any]:
    return {
        name: mask_addresses(value) if isinstance(value, str) and name not in _NOT_MASKED else value
        for name, value in fields.items()
    }

"""Validation of arguments, before anything is sent to the database; and the bounds of settings and options.

Each bound is here once, wherever the value is given: as setting, option, keyword or argument. Each function whose name
begins with `check` or `parse` returns the value in its own type, and raises `InvalidInputError` if it is not usable.
"""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any
from uuid import UUID

from lapse.addresses import ERRORS_OF_OBJECTS, shown
from lapse.errors import InvalidInputError

MAX_LIMIT = 10_000
"""Conversations that one query returns, or one transaction of a sweep changes."""
MAX_BACKLOG = 1_000_000_000
MIN_TIMEOUT_MINUTES = 1 / 60
"""One second: timeouts are stored in whole seconds."""
MAX_TIMEOUT_MINUTES = 10 * 365 * 24 * 60
"""Ten years: every deadline stays within the calendar."""
MAX_RATE = 1_000_000
"""Conversations per second."""
MAX_PURGE_BATCH = 1_000
"""Conversations that one transaction of a purge deletes: larger ones gain nothing (decision 4)."""
MAX_PURGE_DAYS = 36_500
"""A hundred years: the resulting date is within the calendar of every database."""
MAX_RECEIPT_DAYS = 3_650
MAX_TEXT_LENGTH = 500
"""Characters."""
MAX_PORT = 65_535
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_LEVEL_OF_SYNONYM = {
    **dict.fromkeys(("NOTSET", "ALL", "TRACE", "VERBOSE"), "DEBUG"),
    **dict.fromkeys(("NOTICE", "SUCCESS"), "INFO"),
    "WARN": "WARNING",
    **dict.fromkeys(("ERR", "SEVERE"), "ERROR"),
    **dict.fromkeys(("FATAL", "CRIT", "ALERT", "EMERG", "PANIC", "OFF", "NONE", "SILENT"), "CRITICAL"),
}
"""By their names in other logging libraries."""
_BIGINT = 2**63
_LISTEN_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>[0-9]{1,5})")


def whole_number(value: object) -> int | None:
    """Return a whole number (an `int`, or anything with `__index__`, such as NumPy's) as an `int`; None: it is not one.

    A bool is not one: where a number is expected, it is a mistake.
    """
    if type(value) is int:  # the usual case; every message is checked
        return value
    if isinstance(value, bool):
        return None
    try:
        return int(operator.index(value))  # type: ignore[arg-type]  # raises if it cannot be converted
    except ERRORS_OF_OBJECTS:
        return None


def real_number(value: object) -> float | None:
    """Return a finite number (`int`, `float`, `Decimal`, `Fraction`, NumPy's) as a float; None: it is not one."""
    if isinstance(value, bool):
        return None
    if not isinstance(value, numbers.Real | Decimal):
        value = whole_number(value)
    try:
        number = float(value)  # type: ignore[arg-type]  # raises for None, too
    except ERRORS_OF_OBJECTS:  # too large, a signalling NaN
        return None
    return number if math.isfinite(number) else None


def check_bigint(name: str, value: int) -> int:
    """Check that a value is a whole number within the range of `bigint`."""
    number = whole_number(value)
    if number is None or not -_BIGINT <= number < _BIGINT:
        raise InvalidInputError(f"{name} must be a whole number of at most 64 bits, not {shown(value)}")
    return number


def check_between(what: str, value: int, least: int, most: int) -> int:
    """Check that a value is a whole number from `least` to `most`; the error begins with `what`."""
    number = whole_number(value)
    if number is None or not least <= number <= most:
        raise InvalidInputError(f"{what} must be {least} to {most}, not {shown(value)}")
    return number


def check_limit(limit: int) -> int:
    """Check that a limit is a whole number from 1 to `MAX_LIMIT`."""
    return check_between("a limit", limit, 1, MAX_LIMIT)


def check_flag(name: str, value: bool) -> bool:
    """Check that a value is a bool."""
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} must be True or False, not {shown(value)}")
    return value


def check_timeout_minutes(minutes: float) -> float:
    """Check that a timeout in minutes is a number from one second to ten years."""
    number = real_number(minutes)
    if number is None or not MIN_TIMEOUT_MINUTES <= number <= MAX_TIMEOUT_MINUTES:
        raise InvalidInputError(f"use one second to ten years ({MAX_TIMEOUT_MINUTES} minutes)")
    return number


def check_purge_days(days: float) -> float:
    """Check that the days from a conversation's end to its purge are more than 0 and at most `MAX_PURGE_DAYS`."""
    number = real_number(days)
    if number is None or not 0 < number <= MAX_PURGE_DAYS:
        raise InvalidInputError(f"closed before {shown(days)} days: use more than 0 and at most {MAX_PURGE_DAYS} days")
    return number


def check_purge_batch(batch_size: int) -> int:
    """Check that the batch size of a purge is a whole number from 1 to `MAX_PURGE_BATCH`."""
    return check_between("the batch size of a purge", batch_size, 1, MAX_PURGE_BATCH)


def check_purge_rate(max_rate: float | None) -> float | None:
    """Check that a purge's conversations per second are more than 0 and at most `MAX_RATE`; None: no limit."""
    if max_rate is None:
        return None
    number = real_number(max_rate)
    if number is None or not 0 < number <= MAX_RATE:
        raise InvalidInputError(
            f"the rate of a purge must be more than 0 and at most {MAX_RATE} per second, not {shown(max_rate)}"
        )
    return number


def check_extension(minutes: float) -> float:
    """Check that the minutes by which an expiry is extended are more than 0 and at most ten years.

    Unlike a timeout they may be less than a second: the new expiry is a time, not a number of seconds.
    """
    number = real_number(minutes)
    if number is None or not 0 < number <= MAX_TIMEOUT_MINUTES:
        raise InvalidInputError(
            f"cannot extend by {shown(minutes)} minutes: use a number of up to {MAX_TIMEOUT_MINUTES}"
        )
    return number


def parse_listen_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; an IPv6 host is in brackets; port 0 lets the system choose a free one."""
    match = _LISTEN_ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match["port"]) > MAX_PORT:
        raise InvalidInputError(
            f"{shown(text)} is no address to listen at: use HOST:PORT, such as 127.0.0.1:8080 or 0.0.0.0:8080"
        )
    return match["ipv6"] or match["host"], int(match["port"])


def parse_log_level(value: object) -> str:
    """Return DEBUG, INFO, WARNING, ERROR or CRITICAL.

    `value` is its name in any letter case, a name from another logging library (`warn`, `trace`, `fatal`, `notset`), or
    a number as in Python's `logging`, which is rounded up to the next level.
    """
    word = str(value).strip().upper() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if re.fullmatch(r"[0-9]{1,9}", word):
        return next((name for name, number in _LEVELS.items() if number >= int(word)), "CRITICAL")
    name = _LEVEL_OF_SYNONYM.get(word, word)
    if name not in _LEVELS:
        raise InvalidInputError(f"use {', '.join(_LEVELS)} or a number from 0 to 50")
    return name


def check_uuid(name: str, value: UUID | str) -> UUID:
    """Check that an id is a UUID, or the text of one."""
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        with suppress(ValueError):
            return UUID(value)
    raise InvalidInputError(f"{name} must be a UUID, not {shown(value)}")


def check_text_id(name: str, value: str) -> str:
    """Check that an id is printable text of 1 to `MAX_TEXT_LENGTH` characters."""
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT_LENGTH or not value.isprintable():
        raise InvalidInputError(f"{name} must be printable text of 1 to {MAX_TEXT_LENGTH} characters")
    return str.__str__(value)


def check_id(kind: str, name: str, value: Any) -> UUID | int | str:
    """Check that an id fits its column; `kind` is the column's type: `bigint`, `uuid` or `text`."""
    return _CHECK_OF_KIND[kind](name, value)


_CHECK_OF_KIND: dict[str, Callable[[str, Any], UUID | int | str]]
_CHECK_OF_KIND = {"bigint": check_bigint, "uuid": check_uuid, "text": check_text_id}


def check_text(name: str, text: str | None) -> str | None:
    """Check that a text is printable and of at most `MAX_TEXT_LENGTH` characters; None: no text."""
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > MAX_TEXT_LENGTH or not text.isprintable():
        raise InvalidInputError(f"{name} must be printable text of at most {MAX_TEXT_LENGTH} characters")
    return str.__str__(text)

"""Arguments of the public calls, checked before anything is asked of the database."""

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
MAX_BACKLOG = 1_000_000_000
MAX_TEXT_LENGTH = 500
MAX_PURGE_BATCH = 1_000
"""Conversations that one transaction of a purge deletes at most: larger ones gain nothing (decision 4)."""
MAX_PURGE_DAYS = 36_500
"""A hundred years: the moment that is so long ago is in every database's calendar."""
MAX_PORT = 65_535
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_WORDS_OF_LEVEL = {
    "DEBUG": ("NOTSET", "ALL", "TRACE", "VERBOSE"),
    "INFO": ("NOTICE", "SUCCESS"),
    "WARNING": ("WARN",),
    "ERROR": ("ERR", "SEVERE"),
    "CRITICAL": ("FATAL", "CRIT", "ALERT", "EMERG", "PANIC", "OFF", "NONE", "SILENT"),
}
"""How other programs' loggers call them."""
_LEVEL_OF_WORD = {word: name for name, words in _WORDS_OF_LEVEL.items() for word in words}
_BIGINT = 2**63
_LISTEN_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>[0-9]{1,5})")


def whole_number(value: object) -> int | None:
    """Return what counts as a whole number (an `int`, or anything with `__index__`, as NumPy's have) as one, or None.

    A bool is none: it is a mistake wherever a number is asked for.
    """
    if type(value) is int:  # nearly always, and in every message's way
        return value
    if isinstance(value, bool):
        return None
    try:
        return int(operator.index(value))  # type: ignore[arg-type]  # what cannot be one raises
    except ERRORS_OF_OBJECTS:
        return None


def real_number(value: object) -> float | None:
    """Return a finite number of any kind (`int`, `float`, `Decimal`, `Fraction`, NumPy's) as a float, or None."""
    if isinstance(value, bool):
        return None
    if not isinstance(value, numbers.Real | Decimal):
        value = whole_number(value)
    try:
        found = float(value)  # type: ignore[arg-type]  # None raises, too
    except ERRORS_OF_OBJECTS:  # too large, a signalling NaN
        return None
    return found if math.isfinite(found) else None


def check_bigint(name: str, value: int) -> int:
    """Return a whole number that fits a `bigint`.

    Raises:
        InvalidInputError: it is something else.
    """
    found = whole_number(value)
    if found is None or not -_BIGINT <= found < _BIGINT:
        raise InvalidInputError(f"{name} must be a whole number of at most 64 bits, not {shown(value)}")
    return found


def check_between(what: str, value: int, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`; `what` begins the error's text.

    Raises:
        InvalidInputError: it is something else.
    """
    found = whole_number(value)
    if found is None or not least <= found <= most:
        raise InvalidInputError(f"{what} must be {least} to {most}, not {shown(value)}")
    return found


def check_limit(limit: int) -> int:
    """Return a limit of 1 to 10,000.

    Raises:
        InvalidInputError: it is something else.
    """
    return check_between("a limit", limit, 1, MAX_LIMIT)


def check_flag(name: str, value: bool) -> bool:
    """Return a bool.

    Raises:
        InvalidInputError: it is something else.
    """
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name} must be True or False, not {shown(value)}")
    return value


def check_purge_days(days: float) -> float:
    """Return a number of days after which closed conversations may go.

    Raises:
        InvalidInputError: it is not more than 0 and at most 36,500.
    """
    found = real_number(days)
    if found is None or not 0 < found <= MAX_PURGE_DAYS:
        raise InvalidInputError(f"closed before {shown(days)} days: use more than 0 and at most {MAX_PURGE_DAYS} days")
    return found


def check_purge_batch(batch_size: int) -> int:
    """Return a batch size of 1 to 1,000.

    Raises:
        InvalidInputError: it is something else.
    """
    return check_between("the batch size of a purge", batch_size, 1, MAX_PURGE_BATCH)


def check_purge_rate(max_rate: float | None) -> float | None:
    """Return conversations per second at most, or None for no limit.

    Raises:
        InvalidInputError: it is not a number from 1 on.
    """
    if max_rate is None:
        return None
    found = real_number(max_rate)
    if found is None or found < 1:
        raise InvalidInputError(f"the rate of a purge must be at least 1 per second, not {shown(max_rate)}")
    return found


def parse_listen_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, where an IPv6 host stands in brackets; port 0 is any free one.

    Raises:
        InvalidInputError: it is something else.
    """
    found = _LISTEN_ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found["port"]) > MAX_PORT:
        raise InvalidInputError(
            f"{shown(text)} is no address to listen at: use HOST:PORT, such as 127.0.0.1:8080 or 0.0.0.0:8080"
        )
    return found["ipv6"] or found["host"], int(found["port"])


def parse_log_level(value: object) -> str:
    """Return DEBUG, INFO, WARNING, ERROR or CRITICAL for a word or a number that means one of them.

    Args:
        value: in any letter case, also as other programs' loggers say it (`warn`, `trace`, `fatal`, `notset`); a number
            as of Python's `logging` means the level from which on its lines are at least that.

    Raises:
        InvalidInputError: it means none.
    """
    word = str(value).strip().upper() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if re.fullmatch(r"[0-9]{1,9}", word):
        return next((name for name, number in _LEVELS.items() if number >= int(word)), "CRITICAL")
    name = _LEVEL_OF_WORD.get(word, word)
    if name not in _LEVELS:
        raise InvalidInputError(f"use {', '.join(_LEVELS)} or a number from 0 to 50")
    return name


def check_uuid(name: str, value: UUID | str) -> UUID:
    """Return an id that is a UUID.

    Raises:
        InvalidInputError: it is none.
    """
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        with suppress(ValueError):
            return UUID(value)
    raise InvalidInputError(f"{name} must be a UUID, not {shown(value)}")


def check_text_id(name: str, value: str) -> str:
    """Return an id that is text.

    Raises:
        InvalidInputError: it is empty, too long, or holds control characters.
    """
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT_LENGTH or not value.isprintable():
        raise InvalidInputError(f"{name} must be printable text of 1 to {MAX_TEXT_LENGTH} characters")
    return str.__str__(value)


def check_id(kind: str, name: str, value: Any) -> UUID | int | str:
    """Return an id of a column that holds `bigint`, `uuid` or `text`.

    Raises:
        InvalidInputError: it is none of that kind.
    """
    return _CHECK_OF_KIND[kind](name, value)


_CHECK_OF_KIND: dict[str, Callable[[str, Any], UUID | int | str]] = {
    "bigint": check_bigint,
    "uuid": check_uuid,
    "text": check_text_id,
}


def check_text(name: str, text: str | None) -> str | None:
    """Return a short printable text.

    Raises:
        InvalidInputError: it is too long, or holds control characters.
    """
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > MAX_TEXT_LENGTH or not text.isprintable():
        raise InvalidInputError(f"{name} must be printable text of at most {MAX_TEXT_LENGTH} characters")
    return str.__str__(text)

"""Arguments of the public calls, checked before anything is asked of the database."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

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
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_bigint(name: str, value: int) -> int:
    """Return a whole number that fits a `bigint`.

    Raises:
        InvalidInputError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not -_BIGINT <= value < _BIGINT:
        raise InvalidInputError(f"{name} must be a whole number of at most 64 bits, not {_shown(value)}")
    return value


def check_limit(limit: int) -> int:
    """Return a limit of 1 to 10,000.

    Raises:
        InvalidInputError: it is something else.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise InvalidInputError(f"a limit must be 1 to {MAX_LIMIT}, not {_shown(limit)}")
    return limit


def check_purge_days(days: float) -> float:
    """Return a number of days after which closed conversations may go.

    Raises:
        InvalidInputError: it is not more than 0 and at most 36,500.
    """
    if isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days <= MAX_PURGE_DAYS:
        shown = f"{days:g}" if isinstance(days, int | float) else _shown(days)
        raise InvalidInputError(f"closed before {shown} days: use more than 0 and at most {MAX_PURGE_DAYS} days")
    return days


def check_purge_batch(batch_size: int) -> int:
    """Return a batch size of 1 to 1,000.

    Raises:
        InvalidInputError: it is something else.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= MAX_PURGE_BATCH:
        raise InvalidInputError(f"the batch size of a purge must be 1 to {MAX_PURGE_BATCH}, not {_shown(batch_size)}")
    return batch_size


def check_purge_rate(max_rate: float | None) -> float | None:
    """Return conversations per second at most, or None for no limit.

    Raises:
        InvalidInputError: it is not a number from 1 on.
    """
    if max_rate is not None and (not isinstance(max_rate, int | float) or not 1 <= max_rate < math.inf):
        raise InvalidInputError(f"the rate of a purge must be at least 1 per second, not {_shown(max_rate)}")
    return max_rate


def parse_listen_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, where an IPv6 host stands in brackets; port 0 is any free one.

    Raises:
        InvalidInputError: it is something else.
    """
    found = _LISTEN_ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > MAX_PORT:
        raise InvalidInputError(
            f"{_shown(text)} is no address to listen at: use HOST:PORT, such as 127.0.0.1:8080 or 0.0.0.0:8080"
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
    word = str(value).strip().upper()
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
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise InvalidInputError(f"{name} must be a UUID, not {_shown(value)}") from None


def check_text_id(name: str, value: str) -> str:
    """Return an id that is text.

    Raises:
        InvalidInputError: it is empty, too long, or holds control characters.
    """
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT_LENGTH or not value.isprintable():
        raise InvalidInputError(f"{name} must be printable text of 1 to {MAX_TEXT_LENGTH} characters")
    return value


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
    if text is not None and (not isinstance(text, str) or len(text) > MAX_TEXT_LENGTH or not text.isprintable()):
        raise InvalidInputError(f"{name} must be printable text of at most {MAX_TEXT_LENGTH} characters")
    return text


def check_json_object(name: str, value: dict[str, Any] | None) -> dict[str, Any]:
    """Return a JSON object that both databases can store; None is the empty one.

    Raises:
        InvalidInputError: it is not a dict, not JSON, or holds a NUL character or half a surrogate pair.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInputError(f"{name} must be a JSON object (a dict), not {type(value).__name__}")
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{name} holds half a surrogate pair, which is no character") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} is not a JSON object: {error}") from None
    if _JSON_NUL.search(text):
        raise InvalidInputError(f"{name} holds a NUL character, which PostgreSQL cannot store")
    return value


def _shown(value: object) -> str:
    try:
        return repr(str(value)[:40])
    except ValueError:  # Python writes out no number of more than 4,300 digits
        return "a number of thousands of digits"

"""Validation of JSON objects: only values that both databases return exactly as they were given."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

from lapse.errors import InvalidInputError

MAX_JSON_DEPTH = 64
"""Nesting of objects and lists. Python's parser reads some hundreds, fewer when the call stack is deep."""
MAX_JSON_VALUES = 1_000_000
"""Values in an object, nested ones included: one that contains the same list many times has no other bound."""
MAX_JSON_DIGITS = 1_000
"""Digits of a whole number. Python parses 4,300, fewer if it is configured so."""
_MAX_BITS = math.floor(MAX_JSON_DIGITS * math.log2(10))
_INEXACT = 1e16
"""From here on PostgreSQL writes a floating-point number as a whole one."""
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_json_object(name: str, value: dict[str, Any] | None) -> dict[str, Any]:
    """Check that both databases return a JSON object exactly as it is, and return it; None: the empty object.

    Raises:
        InvalidInputError: it is not a dict; it contains something that JSON does not have (a tuple, a key that is not
            text, NaN, …), a NUL character or half a surrogate pair; or it exceeds one of the limits above.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInputError(f"{name} must be a JSON object (a dict), not {type(value).__name__}")
    if not value:
        return {}
    _check_values(name, value)
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{name} holds half a surrogate pair, which is no character") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} is not a JSON object: {type(error).__name__}") from None
    if _NUL.search(text):
        raise InvalidInputError(f"{name} holds a NUL character, which PostgreSQL cannot store")
    return value


def _check_values(name: str, value: dict[str, Any]) -> None:
    """Check all nested values. Not recursive: a deep or cyclic object must not exhaust the stack."""
    pending: list[tuple[Any, int]] = [(value, 1)]
    values = 0
    while pending:
        container, depth = pending.pop()
        if depth > MAX_JSON_DEPTH:
            raise InvalidInputError(f"{name} is deeper than {MAX_JSON_DEPTH} levels of objects and lists")
        if isinstance(container, dict):
            if any(not isinstance(key, str) for key in container):
                raise InvalidInputError(f"{name} has a key that is not text, which JSON has not")
            members = list(container.values())
        else:
            members = list(container)
        values += len(members)
        if values > MAX_JSON_VALUES:
            raise InvalidInputError(f"{name} holds more than {MAX_JSON_VALUES} values")
        for member in members:
            if isinstance(member, dict | list):
                pending.append((member, depth + 1))
            elif problem := _problem(member):
                raise InvalidInputError(f"{name} holds {problem}")


def _problem(value: object) -> str | None:
    """Return why a database would not return a value exactly as it is; None: it would."""
    if value is None or isinstance(value, bool | str):
        return None
    if isinstance(value, int):
        is_long = value.bit_length() > _MAX_BITS
        return f"a whole number of more than {MAX_JSON_DIGITS} digits" if is_long else None
    if not isinstance(value, float):
        hint = ": use a list" if isinstance(value, tuple | set | frozenset) else ""
        return f"a value of type {type(value).__name__}, which JSON has not{hint}"
    if not math.isfinite(value):
        return "a number that is not finite, which JSON has not"
    if abs(value) >= _INEXACT and int(Decimal(repr(value))) != value:
        return "a number with more digits than a float has: use a whole number, or text"
    return None

"""JSON objects of the public calls: what both databases give back as it was given, and nothing else."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

from lapse.errors import InvalidInputError

MAX_JSON_DEPTH = 64
"""Objects and lists within each other. Python reads some hundreds, and fewer the deeper in calls it is."""
MAX_JSON_VALUES = 1_000_000
"""All that an object holds: one that holds the same list again and again has no other end."""
MAX_JSON_DIGITS = 1_000
"""Of a whole number: Python reads 4,300, and fewer where it is told so."""
_MAX_BITS = math.floor(MAX_JSON_DIGITS * math.log2(10))
_INEXACT = 1e16
"""From here on PostgreSQL writes a number with a fraction as a whole one."""
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_json_object(name: str, value: dict[str, Any] | None) -> dict[str, Any]:
    """Return a JSON object that both databases give back as it is; None is the empty one.

    Raises:
        InvalidInputError: it is not a dict; it holds what JSON has not (a tuple, a key that is no text, NaN, …), a NUL
            character or half a surrogate pair; or it is deeper than 64 levels.
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
    """Check all that is inside. No call within a call: what is deep, or holds itself, must not use up the stack."""
    inside: list[tuple[Any, int]] = [(value, 1)]
    values = 0
    while inside:
        container, depth = inside.pop()
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
                inside.append((member, depth + 1))
            elif problem := _problem_of(member):
                raise InvalidInputError(f"{name} holds {problem}")


def _problem_of(value: object) -> str | None:
    """Return why a single value would not come back as it is, or None."""
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

"""What `lapse doctor` reports: what is wrong, and how to correct it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lapse.adoption.catalog import Table
from lapse.adoption.names import quoted

ERROR: Literal["error"] = "error"
WARNING: Literal["warning"] = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check reports."""

    level: Literal["error", "warning"]
    """`error`: lapse does not work correctly with it. `warning`: lapse works, with the stated limitation."""
    code: str
    """Short and stable, for programs: `missing-index`."""
    message: str
    """What is wrong, where, and its consequence."""
    hint: str
    """How to correct it: SQL or a command that can be copied."""


def error(code: str, message: str, hint: str) -> Finding:
    """Return a finding with which lapse does not work correctly."""
    return Finding(ERROR, code, message, hint)


def warning(code: str, message: str, hint: str) -> Finding:
    """Return a finding with which lapse works, with a limitation."""
    return Finding(WARNING, code, message, hint)


def name_of(table: Table) -> str:
    """Return the schema-qualified name of one of lapse's tables, as SQL that can be copied spells it."""
    return f"{quoted(table.schema)}.{table.name}"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return `1 conversation`, `2,000 conversations`; without a plural, an `s` is appended to the singular."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"

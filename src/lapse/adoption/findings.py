"""What a look at a database finds: what is wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lapse.adoption.catalog import Table
from lapse.adoption.names import quoted

TROUBLE: Literal["trouble"] = "trouble"
NOTE: Literal["note"] = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    level: Literal["trouble", "note"]
    """`trouble`: something goes wrong, or will. `note`: good to know, lapse copes with it."""
    code: str
    """Short and lasting, for programs: `missing-index`."""
    what: str
    """What is wrong, where, and what comes of it."""
    do: str
    """What to do: SQL or a command that can be copied."""


def trouble(code: str, what: str, do: str) -> Finding:
    """Return a finding with which lapse does not work as it should."""
    return Finding(TROUBLE, code, what, do)


def note(code: str, what: str, do: str) -> Finding:
    """Return a finding that lapse copes with."""
    return Finding(NOTE, code, what, do)


def name_of(table: Table) -> str:
    """Return the name of one of lapse's tables with its schema, as SQL that can be copied spells it."""
    return f"{quoted(table.schema)}.{table.name}"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return `1 conversation`, `2,000 conversations`."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"

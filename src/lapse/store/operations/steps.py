"""The steps that operations yield: values, which a driver acts on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeVar

from lapse.store.statements import Statement

T = TypeVar("T")


class Query(NamedTuple):
    """Run a statement; its result are `Rows`. Outside a transaction it is one by itself, in one round trip."""

    statement: Statement
    values: Mapping[str, Any] = {}
    """By the names of its parameters; more may be there. `now` is the driver's to give where it is left out."""


class Transaction(NamedTuple):
    """Do all that `work` yields in one transaction that may write; the result is what it returns.

    `work` is called again from the start after a transient failure, even one in COMMIT: it must be repeatable.
    """

    work: Callable[[], Generator[Any, Any, Any]]
    is_snapshot: bool = False
    """Reads only, and all of it as of one moment."""


class _Clock:
    """Read the clock that rules in this database; the result is an aware datetime in UTC."""


CLOCK = _Clock()
Step = Query | Transaction | _Clock
Steps = Generator[Step, Any, T]

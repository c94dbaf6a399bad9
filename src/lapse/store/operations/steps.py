"""The steps that operations yield: plain values that a driver acts on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from lapse.store.statements import Rows, Statement

T = TypeVar("T")


class Query(NamedTuple):
    """Run a statement; the result is its `Rows`. Outside a transaction it is one by itself, in one round trip."""

    statement: Statement
    values: Mapping[str, Any] | Sequence[Sequence[Any]] = {}
    """By the names of its parameters; others are ignored. The driver supplies `now` where it is left out. Several rows
    of values for a statement that is run for each, in a transaction."""
    is_lazy: bool = False
    """The result is `LazyRows`: most rows of a large result are never looked at."""


class Transaction(NamedTuple):
    """Do all queries that `work` yields in one transaction; the result is what `work` returns.

    `work` is called again from the start after a transient failure, even one in COMMIT: it must be repeatable.
    """

    work: Callable[[], Generator[Any, Any, Any]]
    is_snapshot: bool = False
    """Reads only, and all of it as of one moment."""


class _Clock:
    """Read the clock of this database; the result is an aware datetime in UTC."""


class _Repeats:
    """Tell how many steps of this operation were repeated so far; not within a transaction.

    What was repeated may have been done before: the answer to it was lost.
    """


CLOCK = _Clock()
REPEATS = _Repeats()
Step = Query | Transaction | _Clock | _Repeats
Steps = Generator[Step, Any, T]


def answer_of_nothing(steps: Steps[T], now: datetime) -> T:
    """Return what an operation that only reads returns where there are no tables: no query finds a row.

    Raises:
        LapseError: what the operation raises, for an argument that is not usable, say.
    """
    try:
        step = next(steps)
        while True:
            step = steps.send(now if step is CLOCK else Rows())
    except StopIteration as done:
        answer: T = done.value
        return answer

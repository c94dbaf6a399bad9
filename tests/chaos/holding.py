"""A database whose transactions can be held just before their COMMIT, with all their locks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from lapse import Database, LapseError
from lapse.store.operations import Step, Steps, Transaction
from lapse.store.statements import Statements

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
PATIENCE_SECONDS = 30


class Hold:
    """Holds one transaction: the `number`th from now on."""

    def __init__(self, number: int = 1) -> None:
        self._left = number
        self._reached = threading.Event()
        self._released = threading.Event()
        self.is_held = False

    def pause(self) -> None:
        """Wait here, if it is this transaction."""
        self._left -= 1
        if self._left == 0:
            self.is_held = True
            self._reached.set()
            assert self._released.wait(PATIENCE_SECONDS), "held, and never let go"

    def wait(self) -> None:
        """Wait until the transaction is held, or will not come."""
        assert self._reached.wait(PATIENCE_SECONDS), "the transaction did not come"

    def give_up(self) -> None:
        """Say that no further transaction comes."""
        self._reached.set()

    def release(self) -> None:
        """Let it commit."""
        self._released.set()


class HoldingDatabase(Database):
    """Runs single statements in transactions, too, so that they can be held."""

    hold: Hold | None = None

    def run(self, operation: Callable[[Statements, *Ts], Steps[T]], *arguments: *Ts, **options: Any) -> T:
        """Run it as ever, each of its transactions held before its COMMIT if there is a hold."""
        hold = self.hold
        if hold is None:
            return super().run(operation, *arguments, **options)

        def held(sql: Statements, *given: *Ts) -> Steps[T]:
            steps = operation(sql, *given)
            try:
                step = next(steps)
                while True:
                    try:
                        result = yield Transaction(partial(_held, step, hold))
                    except LapseError as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(result)
            except StopIteration as done:
                value: T = done.value
                return value

        return super().run(held, *arguments, **options)


def _held(step: Step, hold: Hold) -> Steps[Any]:
    result = (yield from step.work()) if isinstance(step, Transaction) else (yield step)
    hold.pause()
    return result

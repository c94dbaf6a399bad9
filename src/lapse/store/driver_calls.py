"""What a driver runs for a step of an operation: statements with their values, transactions from BEGIN to their end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from lapse.store.operations import Query, Step, Steps, Transaction
from lapse.store.statements import Statements
from lapse.store.statements.conversations import clock as server_clock

Calls = Generator[tuple[Any, ...], Any, Any]
"""Yields the arguments of a driver's `run`, receives what it returns, and returns the result of a step."""


class DriverCalls:
    """The calls of one database, whichever driver makes them."""

    def __init__(
        self, statements: Statements, now: Callable[[], datetime], errors: tuple[type[Exception], ...]
    ) -> None:
        """Prepare them.

        Args:
            statements: of lapse's own tables.
            now: the present moment, where the database's own clock does not rule.
            errors: those of the driver.
        """
        self._statements, self._now, self._errors = statements, now, errors

    def of(self, driver: Any, step: Step) -> Calls:
        """Yield what `driver` has to run for a step, and return the step's result; errors are thrown in."""
        if not isinstance(step, Transaction):
            if driver.is_read_committed:
                return (yield from self._of_query(step))
            step = Transaction(partial(_only, step))
        yield driver.begin_snapshot if step.is_snapshot else driver.begin, {}
        try:
            steps = step.work()
            result = None
            try:
                while True:
                    result = yield from self._of_query(steps.send(result))
            except StopIteration as done:
                result = done.value
            yield "COMMIT", {}
        except Exception:
            # The connection may be gone, or the database have rolled back already: the first error is the one to tell.
            if driver.is_in_transaction():
                with suppress(*self._errors):
                    yield "ROLLBACK", {}
            raise
        return result

    def _of_query(self, step: Step) -> Calls:
        if isinstance(step, Query):
            statement, values, is_lazy = step
            call = statement.sql, statement.bind(values, self._now)
            if is_lazy:
                return statement.lazy_rows((yield *call, True))
            return statement.rows((yield call))
        if not self._statements.shape.has_server_clock:
            return self._now()
        clock = self._statements(server_clock)
        return clock.rows((yield clock.sql, {})).one().now


def _only(step: Step) -> Steps[Any]:
    result: Any = yield step
    return result

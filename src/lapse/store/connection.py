"""A session for what is no operation: adoption's plans, looks at an application's own tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from lapse.store.statements import Rows, Statement

T = TypeVar("T")


class StatementCache:
    """The compiled statements of one dialect; a statement that is built once is compiled once."""

    def __init__(self, dialect: sa.Dialect) -> None:
        """Begin with none."""
        self._dialect = dialect
        self._compiled: WeakKeyDictionary[Any, Statement] = WeakKeyDictionary()

    def compiled(self, statement: Any) -> Statement:
        """Return the statement, compiled."""
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = self._compiled[statement] = Statement(statement, self._dialect)
        return compiled


class Connection:
    """One connection of the driver, in autocommit mode except inside `transaction`."""

    __slots__ = ("_statements", "driver")

    def __init__(self, driver: Any, statements: StatementCache) -> None:
        """Use this driver's connection."""
        self.driver = driver
        self._statements = statements

    def execute(self, statement: Any, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a statement and return all its rows.

        Args:
            statement: of SQLAlchemy Core, without parameters whose number varies.
            parameters: values of its bound parameters by name; more may be there.
        """
        if not self.driver.is_read_committed and self.driver.is_idle():
            return self.transaction(self.driver.begin, lambda inside: inside.execute(statement, parameters))
        compiled = self._statements.compiled(statement)
        return compiled.rows(self.driver.run(compiled.sql, compiled.bind(parameters or {})))

    def transaction(self, begin: str, work: Callable[[Connection], T]) -> T:
        """Run `work` between `begin` and COMMIT, or ROLLBACK when it raises."""
        try:
            self.driver.run(begin, {})
            result = work(self)
            self.driver.run("COMMIT", {})
        except Exception:
            # The connection may be gone, or the database have rolled back already: the first error is the one to tell.
            if self.driver.is_in_transaction():
                with suppress(self.driver.Error):
                    self.driver.run("ROLLBACK", {})
            raise
        return result

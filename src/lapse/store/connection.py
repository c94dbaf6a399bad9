"""Statements on the driver's own connection: SQLAlchemy compiles each of them once and is not asked again.

Its work per execution was two thirds of a message's time (docs/performance.md). What it knows about types is used as
it stands: the values of a statement and of its rows go through the very processors that it would use itself.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from lapse.errors import DatabaseError

T = TypeVar("T")
Row = Any
"""A named tuple with the statement's columns."""
Processor = Callable[[Any], Any]


class Rows(list[Row]):
    """All rows of a result."""

    def one(self) -> Row:
        """Return the only row."""
        (row,) = self
        return row

    def one_or_none(self) -> Row | None:
        """Return the only row, or None where there is none."""
        return self.one() if self else None


class CompiledStatement:
    """A statement as the driver takes it, and how values go in and rows come out."""

    def __init__(self, statement: Any, dialect: sa.Dialect) -> None:
        """Compile it."""
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        binds = compiled.binds.items()
        self.constants = {name: bind.value for name, bind in binds if not bind.required}
        found = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in binds}
        self.binders: list[tuple[str, Processor]] = [(name, process) for name, process in found.items() if process]
        columns = statement.exported_columns if statement.is_dml or statement.is_select else ()
        self.columns = [column.key for column in columns]
        self.make_row: Callable[[Any], Row] | None = None
        if len(columns):
            self.make_row = getattr(namedtuple("Row", self.columns, rename=True), "_make")  # noqa: B009 - mypy
        readers = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self.readers: list[tuple[int, Processor]] = [(place, read) for place, read in enumerate(readers) if read]

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the driver binds."""
        values = {**self.constants, **parameters}
        for name, process in self.binders:
            values[name] = process(values[name])
        return values

    def rows(self, found: list[tuple[Any, ...]]) -> Rows:
        """Return the driver's rows with the types of the columns."""
        rows = Rows()
        if self.make_row is None:
            return rows
        for row in found:
            cells = list(row)
            try:
                for place, read in self.readers:
                    cells[place] = read(cells[place])
            except (TypeError, ValueError, OverflowError):
                column = self.columns[place]
                raise DatabaseError(f"the database holds something in column {column} that lapse cannot read") from None
            rows.append(self.make_row(cells))
        return rows


class Statements:
    """The compiled statements of one dialect; a statement that is built once is compiled once."""

    def __init__(self, dialect: sa.Dialect) -> None:
        """Begin with none."""
        self._dialect = dialect
        self._compiled: WeakKeyDictionary[Any, CompiledStatement] = WeakKeyDictionary()

    def compiled(self, statement: Any) -> CompiledStatement:
        """Return the statement, compiled."""
        found = self._compiled.get(statement)
        if found is None:
            found = self._compiled[statement] = CompiledStatement(statement, self._dialect)
        return found


class Connection:
    """One connection of the driver, in autocommit mode except inside `transaction`."""

    __slots__ = ("_statements", "driver")

    def __init__(self, driver: Any, statements: Statements) -> None:
        """Use this driver's connection."""
        self.driver = driver
        self._statements = statements

    def execute(self, statement: Any, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a statement and return all its rows.

        Args:
            statement: of SQLAlchemy Core, without parameters whose number varies.
            parameters: values of its bound parameters by name; more may be there.
        """
        compiled = self._statements.compiled(statement)
        return compiled.rows(self.driver.run(compiled.sql, compiled.values(parameters or {})))

    def stream(self, statement: Any) -> Iterator[Row]:
        """Run a statement without parameters, inside a transaction, and yield its rows; some are in memory at once."""
        compiled = self._statements.compiled(statement)
        for page in self.driver.pages(compiled.sql, compiled.values({})):
            yield from compiled.rows(page)

    def transaction(self, begin: str, work: Callable[[Connection], T]) -> T:
        """Run `work` between `begin` and COMMIT, or ROLLBACK when it raises."""
        try:
            self.driver.run(begin, {})
            result = work(self)
            self.driver.run("COMMIT", {})
        except Exception:
            # The connection may be gone, or the database have rolled back already: the first error is the one to tell.
            self.driver.roll_back()
            raise
        return result

"""Statements that are compiled once and run without SQLAlchemy.

Its work per execution was two thirds of a message's time (docs/performance.md). Values and rows still go through its
own processors of each type.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol, TypeVarTuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect

from lapse.errors import DatabaseError
from lapse.store.engines import dialect_of, json_text
from lapse.store.table_mapping import Shape
from lapse.store.tables import BOUND_NOW, Tables
from lapse.store.types import UtcDateTime

Ts = TypeVarTuple("Ts")
MAX_SHAPES = 64
"""How many shapes keep their statements: an application has a database or two."""
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


class Cells(Protocol):
    """The driver's rows, not yet read."""

    def __len__(self) -> int:
        """Return their number."""
        ...

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Return all rows, one by one."""
        ...

    def __getitem__(self, place: int, /) -> tuple[Any, ...]:
        """Return the values of one row, as the driver makes them."""
        ...

    def numbers(self) -> list[int]:
        """Return the first column, which holds small whole numbers."""
        ...


class LazyRows:
    """Rows of a result, each read when it is asked for."""

    def __init__(self, statement: Statement, cells: Cells) -> None:
        self._statement, self.cells = statement, cells

    def row(self, place: int) -> Row:
        """Return one row; errors as `Statement.rows`."""
        return self._statement.rows([self.cells[place]]).one()


class Statement:
    """A statement as the driver takes it, with the processors of its parameters and columns."""

    def __init__(self, statement: Any, dialect: sa.Dialect) -> None:
        """Compile it."""
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        binds = compiled.binds.items()
        self._constants = {name: bind.value for name, bind in binds if not bind.required}
        self._takes_now = BOUND_NOW.key in compiled.binds
        processors = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in binds}
        self._binders: list[tuple[str, Processor]] = [(name, bind) for name, bind in processors.items() if bind]
        columns = statement.exported_columns if statement.is_dml or statement.is_select else ()
        self._columns = [column.key for column in columns]
        self._make_row: Callable[[Any], Row] | None = None
        if len(columns):
            self._make_row = getattr(namedtuple("Row", self._columns, rename=True), "_make")  # noqa: B009 - mypy
        readers = [_reader(column.type, dialect) for column in columns]
        self._readers: list[tuple[int, Processor]] = [(place, read) for place, read in enumerate(readers) if read]

    def bind(self, values: Any, now: Callable[[], datetime] | None = None) -> dict[str, Any]:
        """Return the parameters for the driver; values without a parameter are passed on.

        Args:
            values: by the names of the parameters.
            now: called for the present where the statement has that parameter and the values have not.
        """
        bound = {**self._constants, **values}
        if self._takes_now and now is not None and "now" not in bound:
            bound["now"] = now()
        for name, process in self._binders:
            bound[name] = process(bound[name])
        return bound

    def rows(self, raw: list[tuple[Any, ...]]) -> Rows:
        """Convert the driver's rows to the types of the columns.

        Raises:
            DatabaseError: a value is not of its column's type.
        """
        rows = Rows()
        if self._make_row is None:
            return rows
        for row in raw:
            cells = list(row)
            try:
                for place, read in self._readers:
                    cells[place] = read(cells[place])
            except (TypeError, ValueError, OverflowError):
                column = self._columns[place]
                raise DatabaseError(f"the database holds something in column {column} that lapse cannot read") from None
            rows.append(self._make_row(cells))
        return rows

    def lazy_rows(self, cells: Cells) -> LazyRows:
        """Return the driver's rows, to be converted one by one."""
        return LazyRows(self, cells)


class EachRow(Statement):
    """A statement of SQLite's that returns nothing, and is run once for each row of values: its driver's `executemany`.

    Of many rows it takes half of the time of one statement that takes them as JSON.
    """

    def __init__(self, statement: Any) -> None:
        """Compile it with parameters that have places instead of names."""
        dialect = sqlite_dialect(json_serializer=json_text)
        compiled = statement.compile(dialect=dialect)
        super().__init__(statement, dialect)
        types = [compiled.binds[name].type for name in compiled.positiontup]
        self._processors = [
            _plain if isinstance(type_, sa.Text) else type_.dialect_impl(dialect).bind_processor(dialect)
            for type_ in types
        ]

    def bind(self, values: Any, _now: Callable[[], datetime] | None = None) -> Any:
        """Return the driver's rows of these rows, which are in the order of the parameters."""
        rows: Sequence[Sequence[Any]] = values
        columns = zip(self._processors, zip(*rows, strict=True), strict=True)
        return list(zip(*(map(process, column) if process else column for process, column in columns), strict=True))


def _plain(value: Any) -> Any:
    """Return a member of an enumeration of texts as text: the driver takes long to find out that it is one."""
    return str(value) if isinstance(value, str) else value


def _reader(type_: Any, dialect: sa.Dialect) -> Processor | None:
    """Return what converts a value of the driver's; None: it is as it should be."""
    if isinstance(type_, UtcDateTime) and dialect.name == "postgresql":
        return None  # the driver has read it as UTC
    reader: Processor | None = type_.dialect_impl(dialect).result_processor(dialect, None)
    return reader


class Statements:
    """The statements of one shape of database, each compiled on first use."""

    def __init__(self, shape: Shape) -> None:
        """Begin with none."""
        self.shape = shape
        self.tables = Tables(shape)
        self._dialect = dialect_of(shape.dialect)
        self._compiled: dict[Any, Statement] = {}
        self._each: dict[Any, EachRow] = {}

    def __call__(self, build: Callable[[Tables, *Ts], Any], *key: *Ts) -> Statement:
        """Return the statement that `build` makes of the tables and these arguments, compiled."""
        compiled = self._compiled.get((build, *key))
        if compiled is None:
            compiled = self._compiled[(build, *key)] = Statement(build(self.tables, *key), self._dialect)
        return compiled

    def each(self, build: Callable[[Tables, bool], Any]) -> EachRow:
        """Return the statement of a single row that `build` makes, to be run for each of many; on SQLite."""
        compiled = self._each.get(build)
        if compiled is None:
            compiled = self._each[build] = EachRow(build(self.tables, True))
        return compiled


@lru_cache(MAX_SHAPES)
def statements_for(shape: Shape) -> Statements:
    """Return the statements of a shape: the same for all databases of it, in a process."""
    return Statements(shape)

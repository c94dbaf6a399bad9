"""The few things that PostgreSQL and SQLite spell differently: times, JSON, and three functions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeDecorator

from lapse.lifecycle import require_utc
from lapse.models import MIN_DATETIME, NEVER, UnreadableJson
from lapse.store.layout import IdKind, layout_of

_UTC_TEXT_PATTERN = "dddd-dd-dd dd:dd:dd.dddddd".replace("d", "[0-9]")
_DATE_LENGTH = len("2026-01-05")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime: `timestamptz` on PostgreSQL, ISO text without offset on SQLite, which drops zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        """Write SQLite's text in one step: SQLAlchemy's several were a tenth of a message's time."""
        return utc_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Read it in one step, too."""
        return from_utc_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse a naive value: guessing its zone would move deadlines."""
        if value is None:
            return None
        return require_utc(value)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """PostgreSQL answers in the session's zone."""
        return None if value is None else require_utc(value)


class MomentOrText(UtcDateTime):
    """A moment that is read even where it is none: on SQLite as the text that stands there."""

    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Read it."""
        return _moment_or_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _moment_or_text(text: str | None) -> datetime | str | None:
    try:
        return from_utc_text(text)
    except (ValueError, OverflowError):
        return text


def deadline_of(found: datetime | str | None, now: datetime) -> datetime | None:
    """Return the moment; what stands there as text is due once its turn among the texts of moments has come."""
    if not isinstance(found, str):
        return found
    return now - timedelta(microseconds=1) if found < str(utc_text(now)) else None


class SweepStart(UtcDateTime):
    """Where a sweep starts: on PostgreSQL times may be earlier than the calendar's first, `-infinity` say."""

    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        """Start before all of them."""
        is_first = value is not None and value.replace(tzinfo=None) == datetime.min  # noqa: DTZ901
        return "-infinity" if is_first and dialect.name == "postgresql" else super().process_bind_param(value, dialect)


def utc_text(moment: datetime | None) -> str | None:
    """Return a moment as it stands in SQLite: texts of one form compare as the moments do.

    Raises:
        NaiveDatetimeError: it has no time zone.
    """
    if moment is None:
        return None
    return require_utc(moment).isoformat(" ", "microseconds")[:26]  # without the offset


def from_utc_text(text: str | None) -> datetime | None:
    """Return the moment that a text in SQLite means.

    Raises:
        ValueError: it means none.
    """
    if text is None:
        return None
    if len(text) > _DATE_LENGTH:  # behind a date alone, the offset would be read as a time
        try:
            return datetime.fromisoformat(text + "+00:00")
        except ValueError:
            pass
    elif text in ("infinity", "-infinity"):  # PostgreSQL's
        return NEVER if text == "infinity" else MIN_DATETIME
    moment = datetime.fromisoformat(text)  # written by others, as a date or with an offset
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Id(TypeDecorator[Any]):
    """An id, of the type that the column has in this database; on SQLite a UUID is its usual text with hyphens."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, column: str) -> None:
        """Of this column: `conv_id`, `owner_id` or `user_id`."""
        super().__init__()
        self.column = column

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Take what the database has."""
        kind = layout_of(dialect).kinds[self.column]
        is_native = dialect.name == "postgresql" or kind is not IdKind.UUID
        return dialect.type_descriptor(_TYPES[kind]() if is_native else sa.Text())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """Spell a UUID for SQLite."""
        return str(value) if dialect.name == "sqlite" and isinstance(value, UUID) else value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """Read SQLite's text."""
        return UUID(value) if dialect.name == "sqlite" and isinstance(value, str) else value


_TYPES: dict[IdKind, type[sa.types.TypeEngine[Any]]] = {
    IdKind.BIGINT: sa.BigInteger,
    IdKind.UUID: postgresql.UUID,
    IdKind.TEXT: sa.Text,
}
ConversationId = Id("conv_id")
OwnerId = Id("owner_id")
UserId = Id("user_id")


class JsonColumn(TypeDecorator[Any]):
    """A JSON object: `jsonb` on PostgreSQL, text on SQLite. One that cannot be read is in nobody's way but its own."""

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Take PostgreSQL's own type where there is one."""
        return dialect.type_descriptor(postgresql.JSONB() if dialect.name == "postgresql" else sa.JSON())

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Read it as text: PostgreSQL's driver would raise for all the rows of a result at once."""
        return json_text(column, type_=self)

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Read the text."""
        return read_json


def read_json(text: str | bytes | None) -> Any:
    """Return what a JSON text means; for one that cannot be read, something that says so to whoever looks inside."""
    if text is None:
        return None
    if text == "{}":
        return {}
    try:
        return json.loads(text)
    except RecursionError:
        return UnreadableJson("is nested too deeply to be read")
    except (TypeError, ValueError):
        return UnreadableJson("is no JSON that Python reads")


JsonObject = JsonColumn()


class ConversationIds(TypeDecorator[list[Any]]):
    """A list of conversation ids as one parameter: an array on PostgreSQL, a JSON array on SQLite."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Take PostgreSQL's own type where there is one."""
        if dialect.name != "postgresql":
            return dialect.type_descriptor(sa.Text())
        return dialect.type_descriptor(postgresql.ARRAY(_TYPES[layout_of(dialect).kinds["conv_id"]]()))

    def process_bind_param(self, value: list[Any] | None, dialect: sa.Dialect) -> list[Any] | str:
        """Spell it for SQLite."""
        ids = value or []
        return json.dumps([str(conv_id) for conv_id in ids]) if dialect.name == "sqlite" else ids


class is_one_of(GenericFunction[bool]):  # noqa: N801 - SQL functions are written in lower case
    """Whether a conversation's id is in a list that is one parameter, whatever its length."""

    type = sa.Boolean()
    inherit_cache = True


class greatest(GenericFunction[Any]):  # noqa: N801 - SQL functions are written in lower case
    """The later of two moments; neither may be NULL (the databases differ there)."""

    inherit_cache = True


class json_text(GenericFunction[Any]):  # noqa: N801 - SQL functions are written in lower case
    """JSON as the text that it is."""

    inherit_cache = True


class plus_seconds(GenericFunction[datetime]):  # noqa: N801 - SQL functions are written in lower case
    """A moment some seconds later (or earlier, for a negative count)."""

    type = UtcDateTime()
    inherit_cache = True


class is_time(GenericFunction[bool]):  # noqa: N801 - SQL functions are written in lower case
    """Whether a sweep takes this for a time.

    In SQLite others may have written a number or an empty text, which come before all times, or a word, which comes
    after them. `2026-13-45` lies between them, and only its reader can tell.
    """

    type = sa.Boolean()
    inherit_cache = True


@compiles(is_time, "postgresql")
def _is_time_postgresql(_element: is_time, _compiler: Any, **_options: Any) -> str:
    return "true"


@compiles(is_time, "sqlite")
def _is_time_sqlite(element: is_time, compiler: Any, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    return f"({column} BETWEEN '0001-01-01 00:00:00.000000' AND '9999-12-31 23:59:59.999999')"


@compiles(is_one_of, "postgresql")
def _is_one_of_postgresql(element: is_one_of, compiler: Any, **options: Any) -> str:
    column, ids = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} = ANY ({ids}))"


@compiles(is_one_of, "sqlite")
def _is_one_of_sqlite(element: is_one_of, compiler: Any, **options: Any) -> str:
    column, ids = (compiler.process(clause, **options) for clause in element.clauses)
    # In lower case, as lapse spells ids: others may have written them in capitals.
    return f"(lower({column}) IN (SELECT value FROM json_each({ids})))"  # noqa: S608 - of compiled clauses


@compiles(json_text)
def _json_text(element: json_text, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(json_text, "postgresql")
def _json_text_postgresql(element: json_text, compiler: Any, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS TEXT)"


@compiles(greatest, "sqlite")
def _greatest_sqlite(element: greatest, compiler: Any, **options: Any) -> str:
    return f"max({compiler.process(element.clauses, **options)})"


@compiles(plus_seconds, "postgresql")
def _plus_seconds_postgresql(element: plus_seconds, compiler: Any, **options: Any) -> str:
    # `timestamptz + interval` is only STABLE, for a day's length is a matter of the session's zone; Citus refuses that
    # where it writes rows. Without a zone it is IMMUTABLE, and seconds are the same in either.
    moment, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return f"timezone('UTC', timezone('UTC', {moment}) + make_interval(secs => {seconds}))"


@compiles(plus_seconds, "sqlite")
def _plus_seconds_sqlite(element: plus_seconds, compiler: Any, **options: Any) -> str:
    # Of whole seconds, so the fraction stays as it is: SQLite itself counts in milliseconds. Not a function in Python:
    # an exception that interrupts the call would come out of it as an error of the database's. What others wrote in
    # another form is read as SQLite does. NULL, for what is no time, is never due, and where it is written the row is
    # refused.
    moment, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    added = f"({seconds}) || ' seconds'"
    return (
        f"CASE WHEN {moment} GLOB '{_UTC_TEXT_PATTERN}' "
        f"THEN strftime('%Y-%m-%d %H:%M:%S', substr({moment}, 1, 19), {added}) || substr({moment}, 20) "
        f"ELSE strftime('%Y-%m-%d %H:%M:%f', {moment}, {added}) || '000' END"
    )

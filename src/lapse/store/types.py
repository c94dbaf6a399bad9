"""Column types that PostgreSQL and SQLite store differently: times, JSON, ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator

from lapse.lifecycle import require_utc
from lapse.models import MIN_DATETIME, NEVER, UnreadableJson
from lapse.store.table_mapping import IdKind

UTC_TEXT_PATTERN = "dddd-dd-dd dd:dd:dd.dddddd".replace("d", "[0-9]")
"""The SQLite GLOB pattern that matches a time written by lapse."""
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
        return None if value is None else require_utc(value)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """PostgreSQL answers in the session's zone."""
        return None if value is None else require_utc(value)


class UtcDateTimeOrText(UtcDateTime):
    """A time; on SQLite, a value that is not a time (written by others) is returned as text."""

    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Return the time, or the text."""
        return _utc_datetime_or_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


class SweepCursor(UtcDateTime):
    """The deadline that a sweep continues from; the first of the calendar is `-infinity` on PostgreSQL."""

    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        """Return a value before all others for the first moment of the calendar."""
        is_first = value is not None and value.replace(tzinfo=None) == datetime.min  # noqa: DTZ901
        return "-infinity" if is_first and dialect.name == "postgresql" else super().process_bind_param(value, dialect)


def _utc_datetime_or_text(text: str | None) -> datetime | str | None:
    try:
        return from_utc_text(text)
    except (ValueError, OverflowError):
        return text


def deadline_of(value: datetime | str | None, now: datetime) -> datetime | None:
    """Return the deadline; text that is not a time is due once it sorts before the present."""
    if not isinstance(value, str):
        return value
    return now - timedelta(microseconds=1) if value < str(utc_text(now)) else None


def utc_text(moment: datetime | None) -> str | None:
    """Return a time in the one text form that SQLite stores, in which texts compare as the times do.

    Raises:
        NaiveDatetimeError: it has no time zone.
    """
    if moment is None:
        return None
    return require_utc(moment).isoformat(" ", "microseconds")[:26]  # without the offset


def from_utc_text(text: str | None) -> datetime | None:
    """Parse a time as SQLite stores it; also the forms that others write.

    Raises:
        ValueError: it is not a time.
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


class UuidText(TypeDecorator[Any]):
    """A UUID on SQLite: its usual text with hyphens. Ids of conversations, which are always UUIDs there."""

    impl = sa.Text
    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        """Write it in one step."""
        return _uuid_text

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Read it in one step."""
        return _from_uuid_text


class OwnerUuidText(UuidText):
    """A UUID of an owner on SQLite: by its declared type a file tells it from a text."""

    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Declare its length."""
        return dialect.type_descriptor(sa.CHAR(36))


def _uuid_text(value: UUID | str | None) -> str | None:
    return str(value) if isinstance(value, UUID) else value


def _from_uuid_text(value: Any) -> Any:
    return UUID(value) if isinstance(value, str) else value


class _JsonIds(TypeDecorator[list[Any]]):
    """A list of ids as one parameter on SQLite: a JSON array."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: list[Any] | None, dialect: sa.Dialect) -> str:
        """Write it."""
        return json.dumps([str(conv_id) for conv_id in value or []])


def json_value(value: Any) -> Any:
    """Return a value as SQLite has it: a time or a UUID as text."""
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, UUID):
        return str(value)
    return value


def array_text(values: Sequence[Any]) -> str:
    """Return PostgreSQL's text of a one-dimensional array (its manual, 8.15.6); psycopg takes ten times as long."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, str):
        # Quoted, nearly nothing has to be escaped.
        text = '","'.join(["\0" if value is None else value for value in values])
        if "\\" in text or "\0" in text or text.count('"') > 2 * len(values) - 2:
            return "{" + ",".join(map(_element, values)) + "}"
        return f'{{"{text}"}}'
    return "{" + ",".join(["NULL" if value is None else f'"{value}"' for value in values]) + "}"


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_ID_TYPES: dict[IdKind, type[sa.types.TypeEngine[Any]]] = {
    IdKind.BIGINT: sa.BigInteger,
    IdKind.UUID: postgresql.UUID,
    IdKind.TEXT: sa.Text,
}


def id_type(kind: IdKind, dialect: str) -> sa.types.TypeEngine[Any]:
    """Return the type of a column of ids."""
    return UuidText() if dialect == "sqlite" and kind is IdKind.UUID else _ID_TYPES[kind]()


def owner_type(kind: IdKind, dialect: str) -> sa.types.TypeEngine[Any]:
    """Return the type of the column `owner_id`."""
    return OwnerUuidText() if dialect == "sqlite" and kind is IdKind.UUID else id_type(kind, dialect)


def id_list_type(kind: IdKind, dialect: str) -> sa.types.TypeEngine[Any]:
    """Return the type of a list of such ids as one parameter."""
    return _JsonIds() if dialect == "sqlite" else postgresql.ARRAY(_ID_TYPES[kind]())


class JsonColumn(TypeDecorator[Any]):
    """A JSON object: `jsonb` on PostgreSQL, text on SQLite. An unreadable one does not fail the rest of a result."""

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Take PostgreSQL's own type where there is one."""
        return dialect.type_descriptor(postgresql.JSONB() if dialect.name == "postgresql" else sa.JSON())

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Read it as text: PostgreSQL's driver would raise for all the rows of a result at once."""
        return sa.type_coerce(sa.cast(column, sa.Text), self)

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Read the text."""
        return read_json


def read_json(text: str | bytes | None) -> Any:
    """Parse JSON text; text that cannot be parsed becomes `UnreadableJson`, which raises when it is used."""
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

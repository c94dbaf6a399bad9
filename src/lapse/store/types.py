"""The few things that PostgreSQL and SQLite spell differently: times, JSON, and three functions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeDecorator

from lapse.lifecycle import require_utc

PLUS_SECONDS_FUNCTION = "lapse_plus_seconds"
"""SQLite has no interval; every connection gets a function of this name (see `database`)."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime: `timestamptz` on PostgreSQL, ISO text without offset on SQLite, which drops zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse a naive value: guessing its zone would move deadlines."""
        if value is None:
            return None
        moment = require_utc(value)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Read SQLite's text as UTC; PostgreSQL answers in the session's zone."""
        if value is None:
            return None
        if value.tzinfo is None and dialect.name == "sqlite":
            return value.replace(tzinfo=UTC)
        return require_utc(value)


class ConversationId(TypeDecorator[UUID]):
    """A UUID: native on PostgreSQL, its usual text with hyphens on SQLite, so that people can query by it."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Take PostgreSQL's own type where there is one."""
        return dialect.type_descriptor(postgresql.UUID() if dialect.name == "postgresql" else sa.Text())

    def process_bind_param(self, value: UUID | None, dialect: sa.Dialect) -> UUID | str | None:
        """Spell it for SQLite."""
        return str(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: UUID | str | None, dialect: sa.Dialect) -> UUID | None:
        """Read SQLite's text."""
        return UUID(value) if isinstance(value, str) else value


JsonObject = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


class greatest(GenericFunction[Any]):  # noqa: N801 - SQL functions are written in lower case
    """The later of two moments; neither may be NULL (the databases differ there)."""

    inherit_cache = True


class plus_seconds(GenericFunction[datetime]):  # noqa: N801 - SQL functions are written in lower case
    """A moment some seconds later (or earlier, for a negative count)."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(greatest, "sqlite")
def _greatest_sqlite(element: greatest, compiler: Any, **options: Any) -> str:
    return f"max({compiler.process(element.clauses, **options)})"


@compiles(plus_seconds, "postgresql")
def _plus_seconds_postgresql(element: plus_seconds, compiler: Any, **options: Any) -> str:
    moment, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({moment} + make_interval(secs => {seconds}))"


@compiles(plus_seconds, "sqlite")
def _plus_seconds_sqlite(element: plus_seconds, compiler: Any, **options: Any) -> str:
    return f"{PLUS_SECONDS_FUNCTION}({compiler.process(element.clauses, **options)})"

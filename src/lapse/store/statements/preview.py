"""The statements of a preview: what is due, counted. Before adoption, only of columns that every application has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from lapse.lifecycle import ConversationStatus
from lapse.store.statements.parameters import IDLE_TIMEOUT, LIMIT
from lapse.store.statements.sweeps import is_looked_at
from lapse.store.tables import BOUND_NOW, Tables
from lapse.store.types import UtcDateTime

TIMES = frozenset({"timestamp with time zone"})
REQUIRED_COLUMNS: dict[str, frozenset[str] | None] = {
    "owner_id": None,
    "status": frozenset({"text", "character varying"}),
    "started_at": TIMES,
    "updated_at": TIMES,
}
"""What the statements read, and PostgreSQL's names of the types that it may have (None: any)."""
EXPIRES_AT = "expires_at"
"""A table without this column has conversations that never expire."""
FIRST_MOMENT = datetime(1, 1, 2, tzinfo=UTC)
"""The first one that can be read in every time zone; what others wrote as earlier, or -infinity, is shown as this."""
COLUMNS = 60
"""Of the histogram."""
HISTOGRAM_SECONDS = 3 * 365 * 24 * 60 * 60
"""The histogram goes back so far at most: a few rows without any time would leave no room for all others."""
_HOUR, _DAY = 60 * 60, 24 * 60 * 60
AGES = {
    "under an hour": _HOUR,
    "under a day": _DAY,
    "under a week": 7 * _DAY,
    "under a month": 30 * _DAY,
    "under a year": 365 * _DAY,
}
"""How long past its deadline, and the seconds that each ends at."""
OLDER = "a year and more"

_EXPIRATION: sa.BindParameter[int] = sa.bindparam("expiration", type_=sa.BigInteger)
_NEVER: sa.ColumnElement[datetime] = sa.cast(sa.null(), UtcDateTime)
_attribute = sa.table(
    "pg_attribute", *(sa.column(name) for name in ("attrelid", "attname", "atttypid", "attnum", "attisdropped"))
)


def types_of_columns(tables: Tables) -> Any:
    """PostgreSQL: select names and types of the columns; no row where there is no table `conversations`."""
    return sa.select(
        sa.cast(_attribute.c.attname, sa.Text).label("column"),
        # Without the quotes that `quote_all_identifiers` puts around every name.
        sa.func.replace(sa.func.format_type(_attribute.c.atttypid, sa.null(), type_=sa.Text), '"', "").label("type"),
    ).where(
        _attribute.c.attrelid == sa.func.to_regclass(sa.literal(tables.conversations.name, sa.Text)),
        _attribute.c.attnum > 0,
        ~_attribute.c.attisdropped,
    )


class Counted(NamedTuple):
    """Of which table what is due is counted."""

    is_armed: bool
    """lapse keeps in each row when it looks at it next; where not, adopting will see to it."""
    has_expires_at: bool
    """Whether the table has that column."""
    is_expiration_given: bool
    """Expiry is the start and the parameter `expiration`, whatever `expires_at` says."""


def totals(tables: Tables, counted: Counted) -> Any:
    """Count by status and age."""
    due = _due(tables, counted)
    deadline = due.c.deadline
    ages = [(deadline >= tables.plus_seconds(BOUND_NOW, -seconds), age) for age, seconds in AGES.items()]
    aged = sa.select(due.c.from_status, due.c.to_status, deadline, sa.case(*ages, else_=OLDER).label("age")).cte()
    groups = (aged.c.from_status, aged.c.to_status, aged.c.age)
    return sa.select(
        *groups,
        sa.func.count().label("number"),
        sa.func.min(aged.c.deadline, type_=UtcDateTime).label("oldest"),
        sa.func.max(aged.c.deadline, type_=UtcDateTime).label("newest"),
    ).group_by(*groups)


def owners(tables: Tables, counted: Counted) -> Any:
    """Count by owner, those with most first, and how many owners there are."""
    due = _due(tables, counted)
    by_owner = sa.select(due.c.owner, sa.func.count().label("number")).group_by(due.c.owner).cte("by_owner")
    return (
        sa.select(by_owner, sa.select(sa.func.count()).select_from(by_owner).scalar_subquery().label("owners"))
        .order_by(by_owner.c.number.desc(), by_owner.c.owner)
        .limit(LIMIT)
    )


def histogram(tables: Tables, counted: Counted) -> Any:
    """Count by the column of the histogram that a deadline is in; what is earlier than the first one is in that."""
    begin, end = (sa.bindparam(name, type_=sa.Double) for name in ("begin_seconds", "end_seconds"))
    seconds = sa.func.date_part("epoch", _due(tables, counted).c.deadline, type_=sa.Double)
    place = sa.func.width_bucket(seconds, begin, end, COLUMNS, type_=sa.Integer)
    inside = sa.func.greatest if tables.shape.dialect == "postgresql" else sa.func.max
    places = sa.select(inside(1, sa.func.least(COLUMNS, place), type_=sa.Integer).label("place")).cte("places")
    return sa.select(places.c.place, sa.func.count().label("number")).group_by(places.c.place)


def _due(tables: Tables, counted: Counted) -> sa.CTE:
    """What a first cycle ends: as `sweeps.is_expired` and `is_idle`, for tables that are not lapse's, too."""
    c = tables.c
    expires_at: sa.ColumnElement[datetime] = c.expires_at if counted.has_expires_at else _NEVER
    is_past, is_readable = expires_at < BOUND_NOW, tables.is_time(expires_at)
    if counted.is_expiration_given:
        expires_at = tables.plus_seconds(c.started_at, _EXPIRATION)
        # The moment is moved, not the start: one at the end of the calendar must not leave it.
        is_past = c.started_at < tables.plus_seconds(BOUND_NOW, -_EXPIRATION)
        is_readable = tables.is_time(c.started_at)
    is_expired = tables.is_open & is_past & is_readable
    activity = tables.latest_activity
    is_silent = activity < tables.plus_seconds(BOUND_NOW, -IDLE_TIMEOUT)
    is_idle = tables.is_active & is_silent & is_past.is_not(True)
    if counted.is_armed:
        is_idle &= is_looked_at(tables, BOUND_NOW)
    deadline = sa.case(
        (is_expired, tables.plus_seconds(expires_at, 0)), else_=tables.plus_seconds(activity, IDLE_TIMEOUT)
    )
    first_moment = sa.literal(FIRST_MOMENT, UtcDateTime)
    return (
        sa.select(
            sa.cast(c.owner_id, sa.Text).label("owner"),
            c.status.label("from_status"),
            sa.case((is_expired, ConversationStatus.EXPIRED.value), else_=ConversationStatus.IDLE_TIMEOUT.value).label(
                "to_status"
            ),
            # A text that is no time, which SQLite takes, is as old.
            tables.latest(sa.func.coalesce(deadline, first_moment), first_moment).label("deadline"),
        )
        .where(is_expired | is_idle)
        .cte("due")
    )

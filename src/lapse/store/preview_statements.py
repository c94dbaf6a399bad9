"""The statements of a preview: what is due, counted. Before adoption, only of columns that every application has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from lapse.lifecycle import ConversationStatus
from lapse.store.layout import VERSION_TABLE
from lapse.store.schema import conversations, is_active, is_open
from lapse.store.statements import BOUND_NOW, IDLE_TIMEOUT, LIMIT
from lapse.store.sweep_statements import is_looked_at
from lapse.store.tolerance import latest_activity
from lapse.store.types import UtcDateTime, greatest, is_time, plus_seconds

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

c = conversations.c
_EXPIRATION: sa.BindParameter[int] = sa.bindparam("expiration", type_=sa.BigInteger)
_NEVER: sa.ColumnElement[datetime] = sa.cast(sa.null(), UtcDateTime)

HAS_VERSION = sa.select(sa.func.to_regclass(sa.literal(VERSION_TABLE, sa.Text)).is_not(None).label("has_version"))
"""Whether lapse has made the table, or adopted it to the end; PostgreSQL, as what follows."""
_attribute = sa.table(
    "pg_attribute", *(sa.column(name) for name in ("attrelid", "attname", "atttypid", "attnum", "attisdropped"))
)
TYPES_OF_COLUMNS = sa.select(
    sa.cast(_attribute.c.attname, sa.Text).label("column"),
    # Without the quotes that `quote_all_identifiers` puts around every name.
    sa.func.replace(sa.func.format_type(_attribute.c.atttypid, sa.null(), type_=sa.Text), '"', "").label("type"),
).where(
    _attribute.c.attrelid == sa.func.to_regclass(sa.literal(conversations.name, sa.Text)),
    _attribute.c.attnum > 0,
    ~_attribute.c.attisdropped,
)
"""No row where there is no table `conversations`."""


class PreviewStatements:
    """The three counts over what is due at one moment."""

    def __init__(self, *, is_armed: bool, has_expires_at: bool, is_expiration_given: bool) -> None:
        """Build them.

        Args:
            is_armed: lapse keeps in each row when it looks at it next; where not, adopting will see to it.
            has_expires_at: whether the table has that column.
            is_expiration_given: expiry is the start and the parameter `expiration`, whatever `expires_at` says.
        """
        due = _due(is_armed=is_armed, has_expires_at=has_expires_at, is_expiration_given=is_expiration_given)
        deadline = due.c.deadline
        number: sa.ColumnElement[int] = sa.func.count().label("number")
        ages = [(deadline >= plus_seconds(BOUND_NOW, -seconds), age) for age, seconds in AGES.items()]
        aged = sa.select(due.c.from_status, due.c.to_status, deadline, sa.case(*ages, else_=OLDER).label("age")).cte()
        groups = (aged.c.from_status, aged.c.to_status, aged.c.age)
        self.totals = sa.select(
            *groups,
            number,
            sa.func.min(aged.c.deadline, type_=UtcDateTime).label("oldest"),
            sa.func.max(aged.c.deadline, type_=UtcDateTime).label("newest"),
        ).group_by(*groups)
        of_owners = sa.select(due.c.owner, number).group_by(due.c.owner).cte("of_owners")
        self.owners = (
            sa.select(of_owners, sa.select(sa.func.count()).select_from(of_owners).scalar_subquery().label("owners"))
            .order_by(of_owners.c.number.desc(), of_owners.c.owner)
            .limit(LIMIT)
        )
        self.histogram = _histogram(deadline)


def _due(*, is_armed: bool, has_expires_at: bool, is_expiration_given: bool) -> sa.CTE:
    """What a first cycle ends: as `sweep_statements.is_expired` and `is_idle`, for tables that are not lapse's, too."""
    expires_at: sa.ColumnElement[datetime] = c.expires_at if has_expires_at else _NEVER
    is_past, is_readable = expires_at < BOUND_NOW, is_time(expires_at)
    if is_expiration_given:
        expires_at = plus_seconds(c.started_at, _EXPIRATION)
        # The moment is moved, not the start: one at the end of the calendar must not leave it.
        is_past, is_readable = c.started_at < plus_seconds(BOUND_NOW, -_EXPIRATION), is_time(c.started_at)
    is_expired = is_open & is_past & is_readable
    is_idle = (
        is_active & (latest_activity(c.updated_at) < plus_seconds(BOUND_NOW, -IDLE_TIMEOUT)) & is_past.is_not(True)
    )
    if is_armed:
        is_idle &= is_looked_at(BOUND_NOW)
    deadline = sa.case(
        (is_expired, plus_seconds(expires_at, 0)), else_=plus_seconds(latest_activity(c.updated_at), IDLE_TIMEOUT)
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
            greatest(sa.func.coalesce(deadline, first_moment), first_moment, type_=UtcDateTime).label("deadline"),
        )
        .where(is_expired | is_idle)
        .cte("due")
    )


def _histogram(deadline: sa.ColumnElement[datetime]) -> sa.Select[Any]:
    """Count by the column that a deadline is in; what is earlier than the first one is in that."""
    begin, end = (sa.bindparam(name, type_=sa.Double) for name in ("begin_seconds", "end_seconds"))
    seconds = sa.func.date_part("epoch", deadline, type_=sa.Double)
    place = sa.func.width_bucket(seconds, begin, end, COLUMNS, type_=sa.Integer)
    inside = sa.func.greatest(1, sa.func.least(COLUMNS, place), type_=sa.Integer)
    places = sa.select(inside.label("place")).cte("places")
    return sa.select(places.c.place, sa.func.count().label("number")).group_by(places.c.place)

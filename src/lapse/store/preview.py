"""A preview: what a worker's first cycle would end now, counted; nothing is written."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from lapse.addresses import mask_addresses
from lapse.errors import AdoptionError, InvalidInputError, SchemaMissingError
from lapse.models import Preview
from lapse.store.connection import Connection, Rows
from lapse.store.database import Database
from lapse.store.layout import PREFIX, IdKind
from lapse.store.preview_statements import (
    AGES,
    COLUMNS,
    EXPIRES_AT,
    HISTOGRAM_SECONDS,
    OLDER,
    REQUIRED_COLUMNS,
    TIMES,
    TYPES_OF_COLUMNS,
    PreviewStatements,
)

MOST_OWNERS = 10
_LONGEST_OWNER = 60
# One snapshot for all counts, and PostgreSQL's word that nothing is written.
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def preview(database: Database, idle_timeout: timedelta, expiration: timedelta | None = None) -> Preview:
    """Count what a first cycle would end now, on lapse's own table, an adopted one or one that is not adopted yet.

    Args:
        database: PostgreSQL only.
        idle_timeout: without activity for longer, an active conversation is paused.
        expiration: as if every conversation had been opened with it; default is each one's own `expires_at`.

    Raises:
        InvalidInputError: the database is SQLite.
        SchemaMissingError: there is no table `conversations`.
        AdoptionError: the table of that name is no table of conversations.
        DatabaseError: the database refused, or cannot be reached.
    """
    if database.dialect != "postgresql":
        raise InvalidInputError(f"{database.safe_url} is SQLite: a preview is of PostgreSQL")
    idle_seconds = round(idle_timeout.total_seconds())
    expiration_seconds = None if expiration is None else round(expiration.total_seconds())
    is_text = database.layout().kinds["owner_id"] is IdKind.TEXT

    def read(connection: Connection) -> Preview:
        found = {row.column: row.type for row in connection.execute(TYPES_OF_COLUMNS)}
        _check_columns(database, found)
        statements = PreviewStatements(
            has_expires_at=EXPIRES_AT in found, is_expiration_given=expiration_seconds is not None
        )
        now = database.read_clock(connection)
        values = {"now": now, "idle_timeout": idle_seconds, "expiration": expiration_seconds, "limit": MOST_OWNERS}
        totals = connection.execute(statements.totals, values)
        begin, end = _span(totals, now)
        ends = {"begin_seconds": begin.timestamp(), "end_seconds": end.timestamp()}
        columns = {row.place: row.number for row in connection.execute(statements.histogram, values | ends)}
        owners = connection.execute(statements.owners, values)
        return Preview(
            now=now,
            is_before_adoption=not {"idle_check_at", f"{PREFIX}idle_check_at"} & found.keys(),
            idle_minutes=idle_seconds / 60,
            expiration_minutes=None if expiration_seconds is None else expiration_seconds / 60,
            conversations=sum(row.number for row in totals),
            by_status=_by_status(totals),
            by_age=_by_age(totals),
            by_owner=[(_shown(row.owner, is_text=is_text), row.number) for row in owners],
            owners=owners[0].owners if owners else 0,
            oldest=min((row.oldest for row in totals), default=None),
            newest=max((row.newest for row in totals), default=None),
            histogram_begin=begin,
            histogram_end=end,
            histogram=[columns.get(place, 0) for place in range(1, COLUMNS + 1)] if totals else [],
        )

    return database.autocommit(lambda connection: connection.transaction(_BEGIN, read))


def _check_columns(database: Database, found: dict[str, str]) -> None:
    if not found:
        raise SchemaMissingError(f"{database.safe_url} has no table conversations: there is nothing to preview")
    wanted = REQUIRED_COLUMNS | ({EXPIRES_AT: TIMES} if EXPIRES_AT in found else {})
    for name, types in wanted.items():
        if name not in found:
            raise AdoptionError(
                f"the table conversations of {database.safe_url} has no column {name}: lapse cannot work with it"
            )
        if types is not None and found[name] not in types:
            raise AdoptionError(
                f"the column {name} of the table conversations of {database.safe_url} is {found[name]}, "
                f"not {' or '.join(sorted(types))}: lapse cannot work with it"
            )


def _span(totals: Rows, now: datetime) -> tuple[datetime, datetime]:
    """Return where the histogram begins and ends: the ends of a span that is never empty."""
    oldest = min((row.oldest for row in totals), default=now)
    newest = max((row.newest for row in totals), default=now)
    begin = max(oldest, now - timedelta(seconds=HISTOGRAM_SECONDS))
    return begin, max(newest, begin + timedelta(seconds=1))


def _by_status(totals: Rows) -> list[tuple[str, str, int]]:
    counted: Counter[tuple[str, str]] = Counter()
    for row in totals:
        counted[row.from_status, row.to_status] += row.number
    return [(before, after, number) for (before, after), number in counted.most_common()]


def _by_age(totals: Rows) -> dict[str, int]:
    counted = dict.fromkeys([*AGES, OLDER], 0)
    for row in totals:
        counted[row.age] += row.number
    return counted


def _shown(owner: str, *, is_text: bool) -> str:
    """Return an owner's id for people; one that is text may be anything, an address say."""
    printable = "".join(filter(str.isprintable, owner))[:_LONGEST_OWNER]
    return mask_addresses(printable) if is_text else printable

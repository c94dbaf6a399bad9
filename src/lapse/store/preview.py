"""A preview: what a worker's first cycle would end now, counted; nothing is written."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from lapse.addresses import mask_addresses
from lapse.errors import AdoptionError, SchemaMissingError
from lapse.models import Preview
from lapse.store.connection import Connection, Rows
from lapse.store.database import Database
from lapse.store.layout import VERSION_TABLE, IdKind
from lapse.store.preview_statements import (
    AGES,
    COLUMNS,
    EXPIRES_AT,
    HAS_VERSION,
    HISTOGRAM_SECONDS,
    OLDER,
    REQUIRED_COLUMNS,
    TIMES,
    TYPES_OF_COLUMNS,
    PreviewStatements,
)
from lapse.store.schema import conversations
from lapse.store.sqlite_reading import read_only

MOST_OWNERS = 10
_LONGEST_OWNER = 60
# One snapshot for all counts, and PostgreSQL's word that nothing is written.
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def preview(database: Database, idle_timeout: timedelta, expiration: timedelta | None = None) -> Preview:
    """Count what a first cycle would end now, on lapse's own table, an adopted one or one that is not adopted yet.

    Args:
        database: on SQLite only lapse's own tables; the file is not made, and no writer waits.
        idle_timeout: without activity for longer, an active conversation is paused.
        expiration: as if every conversation had been opened with it; default is each one's own `expires_at`.

    Raises:
        SchemaMissingError: there is no table `conversations`, or no SQLite file.
        AdoptionError: the table of that name is no table of conversations.
        DatabaseError: the database refused, or cannot be reached.
    """
    idle_seconds = round(idle_timeout.total_seconds())
    expiration_seconds = None if expiration is None else round(expiration.total_seconds())
    is_text = database.layout().kinds["owner_id"] is IdKind.TEXT

    def read(connection: Connection) -> Preview:
        has_version, has_expires_at = _look_at_table(database, connection)
        statements = PreviewStatements(
            is_armed=has_version, has_expires_at=has_expires_at, is_expiration_given=expiration_seconds is not None
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
            is_before_adoption=not has_version,
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

    if database.dialect == "sqlite":
        return read_only(database, read)
    return database.autocommit(lambda connection: connection.transaction(_BEGIN, read))


def _look_at_table(database: Database, connection: Connection) -> tuple[bool, bool]:
    """Return whether lapse keeps this table, and whether it has `expires_at`."""
    if database.dialect == "sqlite":
        tables = {name for (name,) in connection.driver.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if conversations.name not in tables:
            raise _no_table(database)
        if VERSION_TABLE not in tables:
            raise AdoptionError(
                f"the table conversations of {database.safe_url} is not one that lapse made: lapse cannot work with it"
            )
        return True, True
    found = {row.column: row.type for row in connection.execute(TYPES_OF_COLUMNS)}
    if not found:
        raise _no_table(database)
    _check_columns(database, found)
    return bool(connection.execute(HAS_VERSION).one().has_version), EXPIRES_AT in found


def _no_table(database: Database) -> SchemaMissingError:
    return SchemaMissingError(f"{database.safe_url} has no table conversations: there is nothing to preview")


def _check_columns(database: Database, found: dict[str, str]) -> None:
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

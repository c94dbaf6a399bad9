"""A preview: counts what a worker's first cycle would end now; read-only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta

from lapse.addresses import mask_addresses
from lapse.errors import AdoptionError, SchemaMissingError
from lapse.lifecycle import whole_seconds
from lapse.models import Preview
from lapse.store.operations.steps import CLOCK, Query, Steps, Transaction
from lapse.store.statements import Rows, Statements, schema
from lapse.store.statements import preview as statements
from lapse.store.statements.preview import AGES, COLUMNS, EXPIRES_AT, HISTOGRAM_SECONDS, OLDER, REQUIRED_COLUMNS, TIMES
from lapse.store.table_mapping import VERSION_TABLE, IdKind

MAX_OWNERS = 10
_MAX_OWNER_LENGTH = 60


def preview(sql: Statements, database: str, idle_timeout: timedelta, expiration: timedelta | None) -> Steps[Preview]:
    """Count what a first cycle would end now, on lapse's own table, an adopted one or one that is not adopted yet.

    Args:
        sql: the statements.
        database: its name for errors.
        idle_timeout: without activity for longer, an active conversation is paused.
        expiration: as if every conversation had been opened with it; None: each one's own `expires_at`.

    Raises:
        SchemaMissingError: there is no table `conversations`.
        AdoptionError: the table of that name is no table of conversations.
    """
    result: Preview = yield Transaction(lambda: count(sql, database, idle_timeout, expiration), is_snapshot=True)
    return result


def count(sql: Statements, database: str, idle_timeout: timedelta, expiration: timedelta | None) -> Steps[Preview]:
    """As `preview`, inside a transaction."""
    idle_seconds = whole_seconds(idle_timeout)
    expiration_seconds = None if expiration is None else whole_seconds(expiration)
    has_version, has_expires_at = yield from _inspect_table(sql, database)
    counted = statements.Counted(has_version, has_expires_at, expiration_seconds is not None)
    now: datetime = yield CLOCK
    values = {"now": now, "idle_timeout": idle_seconds, "expiration": expiration_seconds, "limit": MAX_OWNERS}
    totals: Rows = yield Query(sql(statements.totals, counted), values)
    begin, end = _span(totals, now)
    ends = {"begin_seconds": begin.timestamp(), "end_seconds": end.timestamp()}
    columns = {row.place: row.number for row in (yield Query(sql(statements.histogram, counted), values | ends))}
    owners = yield Query(sql(statements.owners, counted), values)
    is_text = sql.shape.mapping.kinds["owner_id"] is IdKind.TEXT
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


def _inspect_table(sql: Statements, database: str) -> Steps[tuple[bool, bool]]:
    """Return whether lapse keeps this table, and whether it has `expires_at`."""
    if sql.shape.dialect == "sqlite":
        tables = {row.name for row in (yield Query(sql(schema.tables_of_file)))}
        if sql.tables.conversations.name not in tables:
            raise _no_table(database)
        if VERSION_TABLE not in tables:
            raise AdoptionError(
                f"the table conversations of {database} is not one that lapse made: lapse cannot work with it"
            )
        return True, True
    types = {row.column: row.type for row in (yield Query(sql(statements.types_of_columns)))}
    if not types:
        raise _no_table(database)
    _check_columns(database, types)
    return (yield Query(sql(schema.has_version_table))).one().is_there, EXPIRES_AT in types


def _no_table(database: str) -> SchemaMissingError:
    return SchemaMissingError(f"{database} has no table conversations: there is nothing to preview")


def _check_columns(database: str, types: Mapping[str, str]) -> None:
    wanted = REQUIRED_COLUMNS | ({EXPIRES_AT: TIMES} if EXPIRES_AT in types else {})
    for name, usable in wanted.items():
        if name not in types:
            raise AdoptionError(
                f"the table conversations of {database} has no column {name}: lapse cannot work with it"
            )
        if usable is not None and types[name] not in usable:
            raise AdoptionError(
                f"the column {name} of the table conversations of {database} is {types[name]}, "
                f"not {' or '.join(sorted(usable))}: lapse cannot work with it"
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
    printable = "".join(filter(str.isprintable, owner))[:_MAX_OWNER_LENGTH]
    return mask_addresses(printable) if is_text else printable

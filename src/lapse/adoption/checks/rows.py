"""Check the rows: unknown statuses, NULLs, and times that no calendar holds. All are counted in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import Connection

from lapse.addresses import mask_addresses
from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, counted, name_of, note
from lapse.adoption.looks import rows
from lapse.adoption.rights import may_read
from lapse.adoption.subject import Kind, Subject
from lapse.lifecycle import ConversationStatus

_NULLS: Mapping[str, str] = {
    "channel": "lapse takes them as of whatsapp",
    "started_at": "each counts as the oldest of its pair",
    "updated_at": "started_at counts as the latest activity, and where that is NULL, too, they are idle at once",
    "expires_at": "they never expire, but become idle",
    "context": "lapse reads {}",
    "metadata": "lapse reads {}",
}
"""What may be NULL in a table that lapse did not make, and what it then means to lapse."""
_TIMES = ("started_at", "updated_at", "ended_at", "expires_at", "last_inbound_at", "idle_check_at")
_SHOWN = 5
_MAX_STATUSES = 1_000


def check_rows(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield what the rows hold that lapse does not expect."""
    table = subject.table
    if table is None or subject.kind is Kind.OTHER or not may_read(connection, table):
        return
    nulls = [name for name in _NULLS if name in table.columns]
    times = [name for name in (subject.physical.get(name, name) for name in _TIMES) if name in table.columns]
    found = rows(connection, _query(name_of(table), nulls, times))
    yield from unknown_statuses({row["status"]: row["rows"] for row in found})
    open_statuses = ConversationStatus.open_statuses()
    for name in nulls:
        total = sum(row[f"null_{name}"] for row in found)
        if total:
            still_open = sum(row[f"null_{name}"] for row in found if row["status"] in open_statuses)
            yield note(
                f"null-{name.replace('_', '-')}",
                f"{counted(total, 'conversation')} ({still_open:,} open) without {name}: {_NULLS[name]}.",
                f"Nothing, if that is meant. Which: {_which(table, f'{name} IS NULL')}",
            )
    yield from _far(sum(row["far"] for row in found), table, times)


def _query(table: str, nulls: list[str], times: list[str]) -> str:
    columns = [f"count(*) FILTER (WHERE {name} IS NULL)::bigint AS null_{name}" for name in nulls]
    columns.append(f"count(*) FILTER (WHERE {_is_far(times)})::bigint AS far")
    return (
        f"SELECT status::text AS status, count(*) AS rows, {', '.join(columns)} FROM {table} GROUP BY 1 "  # noqa: S608
        f"ORDER BY 2 DESC LIMIT {_MAX_STATUSES}"
    )


def _is_far(times: list[str]) -> str:
    # Both ends of Python's calendar; the last one is what lapse itself writes for never.
    calendar = "'0001-01-01 UTC' AND '9999-12-31 23:59:59.999999 UTC'"
    return " OR ".join(f"{name} NOT BETWEEN {calendar}" for name in times) or "false"


def _which(table: Table, condition: str) -> str:
    return f"SELECT * FROM {name_of(table)} WHERE {condition};"  # noqa: S608 - to be copied, of names in the catalog


def unknown_statuses(by_status: Mapping[str | None, int]) -> Iterator[Finding]:
    """Yield what is in statuses that lapse does not know, by how many are in each status."""
    if without := by_status.get(None):
        yield note(
            "null-status",
            f"{counted(without, 'conversation')} without status: lapse leaves them alone, they never end.",
            "Nothing, if that is meant; or give them a status.",
        )
    known = {None, *ConversationStatus}
    unknown = Counter({str(status): n for status, n in by_status.items() if status not in known})
    if unknown:
        shown = ", ".join(f"{_shown(status)} ({n:,})" for status, n in unknown.most_common(_SHOWN))
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        yield note(
            "unknown-status",
            f"{counted(unknown.total(), 'conversation')} in statuses that lapse does not know: {shown}{more}. lapse "
            "leaves them alone: they never end, and do not count as open.",
            "Nothing, if that is meant.",
        )


def _shown(status: str) -> str:
    return ascii(mask_addresses(status[:40]))


def _far(number: int, table: Table, times: list[str]) -> Iterator[Finding]:
    if number:
        yield note(
            "far-time",
            f"{counted(number, 'conversation')} with a time that Python's calendar does not hold: infinity, or one out "
            "of the years 1 to 9999. lapse reads the end of the year 9999 (as an expiry: never), or the year 1.",
            f"Nothing, if that is meant. Which: {_which(table, _is_far(times))}",
        )

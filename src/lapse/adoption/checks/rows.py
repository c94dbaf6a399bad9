"""Check the rows: unknown statuses, NULLs, and times out of range. All are counted in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import Connection

from lapse.addresses import mask_addresses
from lapse.adoption.bounded_queries import fetch_rows
from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, counted, name_of, warning
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.privileges import can_select
from lapse.lifecycle import ConversationStatus

_NULLS: Mapping[str, str] = {
    "channel": "lapse treats them as whatsapp",
    "started_at": "each counts as the oldest of its pair",
    "updated_at": "started_at counts as the last activity; where that is NULL, too, they are idle at once",
    "expires_at": "they never expire, but become idle",
    "context": "lapse reads {}",
    "metadata": "lapse reads {}",
}
"""The nullable columns of an adopted table, and how lapse treats a NULL."""
_TIMES = ("started_at", "updated_at", "ended_at", "expires_at", "last_inbound_at", "idle_check_at")
_SHOWN = 5
_MAX_STATUSES = 1_000


def check_rows(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield values that lapse does not expect, and how it treats them."""
    table = inspection.table
    if table is None or inspection.kind is Kind.OTHER or not can_select(connection, table):
        return
    nulls = [name for name in _NULLS if name in table.columns]
    times = [name for name in (inspection.column_names.get(name, name) for name in _TIMES) if name in table.columns]
    groups = fetch_rows(connection, _query(name_of(table), nulls, times))
    yield from unknown_statuses({row["status"]: row["rows"] for row in groups})
    open_statuses = ConversationStatus.open_statuses()
    for name in nulls:
        total = sum(row[f"null_{name}"] for row in groups)
        if total:
            still_open = sum(row[f"null_{name}"] for row in groups if row["status"] in open_statuses)
            yield warning(
                f"null-{name.replace('_', '-')}",
                f"{counted(total, 'conversation')} ({still_open:,} open) without {name}: {_NULLS[name]}.",
                f"Nothing, if this is intended. Which: {_which(table, f'{name} IS NULL')}",
            )
    yield from _out_of_range(sum(row["out_of_range"] for row in groups), table, times)


def _query(table: str, nulls: list[str], times: list[str]) -> str:
    columns = [f"count(*) FILTER (WHERE {name} IS NULL)::bigint AS null_{name}" for name in nulls]
    columns.append(f"count(*) FILTER (WHERE {_is_out_of_range(times)})::bigint AS out_of_range")
    return (
        f"SELECT status::text AS status, count(*) AS rows, {', '.join(columns)} FROM {table} GROUP BY 1 "  # noqa: S608
        f"ORDER BY 2 DESC LIMIT {_MAX_STATUSES}"
    )


def _is_out_of_range(times: list[str]) -> str:
    # The range of Python's datetime; its end is what lapse itself writes for never.
    calendar = "'0001-01-01 UTC' AND '9999-12-31 23:59:59.999999 UTC'"
    return " OR ".join(f"{name} NOT BETWEEN {calendar}" for name in times) or "false"


def _which(table: Table, condition: str) -> str:
    return f"SELECT * FROM {name_of(table)} WHERE {condition};"  # noqa: S608 - to be copied, of names in the catalog


def unknown_statuses(by_status: Mapping[str | None, int]) -> Iterator[Finding]:
    """Yield statuses that lapse does not know.

    Args:
        by_status: the number of conversations in each status; None stands for NULL.
    """
    if without := by_status.get(None):
        yield warning(
            "null-status",
            f"{counted(without, 'conversation')} without status: lapse ignores them, they never end.",
            "Nothing, if this is intended; or set a status.",
        )
    known = {None, *ConversationStatus}
    unknown = Counter({str(status): n for status, n in by_status.items() if status not in known})
    if unknown:
        shown = ", ".join(f"{_shown(status)} ({n:,})" for status, n in unknown.most_common(_SHOWN))
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        yield warning(
            "unknown-status",
            f"{counted(unknown.total(), 'conversation')} in statuses that lapse does not know: {shown}{more}. lapse "
            "ignores them: they never end, and do not count as open.",
            "Nothing, if this is intended.",
        )


def _shown(status: str) -> str:
    return ascii(mask_addresses(status[:40]))


def _out_of_range(number: int, table: Table, times: list[str]) -> Iterator[Finding]:
    if number:
        yield warning(
            "far-time",
            f"{counted(number, 'conversation')} with a time out of Python's range: infinity, or outside the years 1 to "
            "9999. lapse reads it as the end of the year 9999 (as an expiry: never), or as the year 1.",
            f"Nothing, if this is intended. Which: {_which(table, _is_out_of_range(times))}",
        )

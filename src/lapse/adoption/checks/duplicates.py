"""Check that no pair of addresses has more than one open conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from lapse.adoption.bounded_queries import fetch_rows
from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, counted, error, name_of
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.privileges import can_select
from lapse.adoption.wanted_indexes import CHANNEL
from lapse.lifecycle import ConversationStatus
from lapse.store.tables import OWN_TABLES

_OPEN = ", ".join(f"'{status}'" for status in ConversationStatus.open_statuses())
_WHICH = (
    "SELECT owner_id, channel, session_key, array_agg(conv_id ORDER BY started_at) FROM {table} "  # noqa: S608
    f"WHERE status IN ({_OPEN}) GROUP BY 1, 2, 3 HAVING count(*) > 1;"
)


def check_duplicates(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield the number of pairs with several open conversations, and how many of these are duplicates."""
    table = inspection.table
    if table is None or inspection.kind is Kind.OTHER or not can_select(connection, table):
        return
    index = table.indexes.get(str(OWN_TABLES.open_session.name))
    if inspection.is_current and index and index.is_valid:
        return  # the unique index guarantees it
    (counts,) = fetch_rows(connection, _query(table, _pair(inspection, table)))
    if not counts["pairs"]:
        return
    pairs = counted(counts["pairs"], "pair of addresses has", "pairs of addresses have")
    message = f"{pairs} several open conversations"
    if inspection.kind is Kind.OWN:
        yield error(
            "duplicates",
            f"{message}: {counts['surplus']:,} too many. The unique index that prevents this is missing.",
            f"End all but one of each, then create the index. Which: {_WHICH.format(table=name_of(table))}",
        )
        return
    yield error(
        "duplicates",
        f"{message}. Adoption keeps one of each and ends the others as expired "
        f"(duplicate_session): at least {counts['surplus']:,}, since it recognizes more spellings of a number.",
        "`lapse adopt` keeps the newest, `lapse adopt --keep oldest` the oldest; `--dry-run` prints the plan, "
        "`--report FILE` lists the duplicates.",
    )


def _pair(inspection: Inspection, table: Table) -> str:
    """Return the expressions that identify a pair, as SQL."""
    channel = CHANNEL if "channel" in table.columns else "owner_id"  # all conversations are of one channel
    if inspection.is_current and inspection.column_names["session_key"] in table.columns:
        return f"{channel}, {inspection.column_names['session_key']}"
    # An estimate: lapse's own key recognizes more spellings of a number.
    one, other = (f"regexp_replace({name}, '^\\s*whatsapp:\\s*', '', 'i')" for name in ("from_number", "to_number"))
    return f"{channel}, least({one}, {other}), greatest({one}, {other})"


def _query(table: Table, pair: str) -> str:
    return (
        "SELECT count(*) AS pairs, coalesce(sum(n - 1), 0)::bigint AS surplus FROM (SELECT count(*) AS n "  # noqa: S608
        f"FROM {name_of(table)} WHERE status IN ({_OPEN}) GROUP BY owner_id, {pair} HAVING count(*) > 1) AS of_pair"
    )

"""Check the indexes: those that lapse needs, invalid ones, and those that make every message more expensive."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lapse.adoption.catalog import Index, Table
from lapse.adoption.findings import Finding, error, warning
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import quoted
from lapse.adoption.wanted_indexes import WantedIndex, wanted_indexes

_SUMMARISING_SINCE = 160_000
"""PostgreSQL 16: a BRIN index no longer prevents a HOT update."""


def check_indexes(inspection: Inspection) -> Iterator[Finding]:
    """Yield lapse's indexes that are missing, or differ from their definition."""
    if not (inspection.is_current and inspection.table):
        return
    for wanted in wanted_indexes(inspection.column_names, is_adopted=inspection.kind is Kind.ADOPTED):
        index = inspection.table.indexes.get(wanted.name)
        if index is None:
            yield error(
                "missing-index",
                f"The index {wanted.name} is missing: {_consequence(wanted)}.",
                wanted.statement(inspection.table),
            )
        elif not wanted.matches(index):
            yield error(
                "differing-index",
                f"The index {wanted.name} differs from lapse's definition: {_consequence(wanted)}.",
                f"DROP INDEX CONCURRENTLY {_name(inspection.table, index)}; {wanted.statement(inspection.table)}",
            )


def check_valid_indexes(inspection: Inspection) -> Iterator[Finding]:
    """Yield invalid indexes, lapse's and the application's."""
    for table in (inspection.table, inspection.events, inspection.receipts):
        for index in table.indexes.values() if table else ():
            if table and not index.is_valid:
                yield error(
                    "invalid-index",
                    f"The index {index.name} of {table.name} is invalid: each write updates it and no query uses it. "
                    "A CREATE INDEX CONCURRENTLY was interrupted, has failed, or is still running.",
                    f"REINDEX INDEX CONCURRENTLY {_name(table, index)}; or DROP INDEX CONCURRENTLY "
                    f"{_name(table, index)};",
                )


def check_cheap_messages(inspection: Inspection) -> Iterator[Finding]:
    """Yield indexes on the columns that every message updates."""
    if inspection.table is None or inspection.kind is Kind.OTHER:
        return
    written = re.compile(rf"\b(updated_at|{inspection.column_names['last_inbound_at']})\b")
    for index in inspection.table.indexes.values():
        _, _, body = index.definition.partition(" USING ")
        is_summary = body.startswith("brin ") and inspection.server.version_number >= _SUMMARISING_SINCE
        if (column := written.search(body)) and not is_summary:
            yield warning(
                "activity-index",
                f"The index {index.name} includes {column[1]}, which every message updates: no message is a HOT "
                "update, and each writes more than twice as much.",
                f"If none of your queries needs it: DROP INDEX CONCURRENTLY {_name(inspection.table, index)};",
            )


def _consequence(wanted: WantedIndex) -> str:
    if wanted.is_unique:
        return "messages fail, and a pair may have several open conversations"
    return "queries that need it read the whole table"


def _name(table: Table, index: Index) -> str:
    return f"{quoted(table.schema)}.{quoted(index.name)}"

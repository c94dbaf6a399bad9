"""Check the indexes: those that lapse needs, invalid ones, and one that makes every message more expensive."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lapse.adoption.catalog import Index, Table
from lapse.adoption.findings import Finding, note, trouble
from lapse.adoption.names import quoted
from lapse.adoption.subject import Kind, Subject
from lapse.adoption.wanted_indexes import WantedIndex, wanted_indexes

_SUMMARISING_SINCE = 160_000
"""PostgreSQL 16: BRIN no longer stands in the way of a HOT update."""


def check_indexes(subject: Subject) -> Iterator[Finding]:
    """Yield indexes of lapse's that are missing, or others under their names."""
    if not (subject.is_current and subject.table):
        return
    for wanted in wanted_indexes(subject.physical, is_adopted=subject.kind is Kind.ADOPTED):
        index = subject.table.indexes.get(wanted.name)
        if index is None:
            yield trouble(
                "missing-index",
                f"The index {wanted.name} is missing: {_consequence(wanted)}.",
                wanted.statement(subject.table),
            )
        elif not wanted.is_made_by(index):
            yield trouble(
                "differing-index",
                f"The index {wanted.name} is not the one that lapse makes: {_consequence(wanted)}.",
                f"DROP INDEX CONCURRENTLY {_name(subject.table, index)}; {wanted.statement(subject.table)}",
            )


def check_valid_indexes(subject: Subject) -> Iterator[Finding]:
    """Yield indexes that are not valid, whoever made them."""
    for table in (subject.table, subject.events):
        for index in table.indexes.values() if table else ():
            if table and not index.is_valid:
                yield trouble(
                    "invalid-index",
                    f"The index {index.name} of {table.name} is invalid: each write pays for it and no query uses it. "
                    "A CREATE INDEX CONCURRENTLY was interrupted, failed, or is at work just now.",
                    f"REINDEX INDEX CONCURRENTLY {_name(table, index)}; or DROP INDEX CONCURRENTLY "
                    f"{_name(table, index)};",
                )


def check_cheap_messages(subject: Subject) -> Iterator[Finding]:
    """Yield indexes over what every message writes."""
    if subject.table is None or subject.kind is Kind.OTHER:
        return
    written = re.compile(rf"\b(updated_at|{subject.physical['last_inbound_at']})\b")
    for index in subject.table.indexes.values():
        _, _, body = index.definition.partition(" USING ")
        is_summary = body.startswith("brin ") and subject.server.version_number >= _SUMMARISING_SINCE
        if (found := written.search(body)) and not is_summary:
            yield note(
                "activity-index",
                f"The index {index.name} is over {found[1]}, which every message writes: no message is a HOT update, "
                "each writes more than twice as much.",
                f"If no query of yours needs it: DROP INDEX CONCURRENTLY {_name(subject.table, index)};",
            )


def _consequence(wanted: WantedIndex) -> str:
    if wanted.is_unique:
        return "messages fail, and a pair may have several open conversations"
    return "what looks by it reads the whole table"


def _name(table: Table, index: Index) -> str:
    return f"{quoted(table.schema)}.{quoted(index.name)}"

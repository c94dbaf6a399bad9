"""Check that no pair of addresses has several open conversations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, counted, name_of, trouble
from lapse.adoption.looks import rows
from lapse.adoption.rights import may_read
from lapse.adoption.subject import Kind, Subject
from lapse.adoption.wanted_indexes import CHANNEL
from lapse.lifecycle import ConversationStatus
from lapse.store.schema import open_session

_OPEN = ", ".join(f"'{status}'" for status in ConversationStatus.open_statuses())
_WHICH = (
    "SELECT owner_id, channel, session_key, array_agg(conv_id ORDER BY started_at) FROM {table} "  # noqa: S608
    f"WHERE status IN ({_OPEN}) GROUP BY 1, 2, 3 HAVING count(*) > 1;"
)


def check_duplicates(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield how many pairs have several open conversations, and how many of these would end."""
    table = subject.table
    if table is None or subject.kind is Kind.OTHER or not may_read(connection, table):
        return
    index = table.indexes.get(str(open_session.name))
    if subject.is_current and index and index.is_valid:
        return  # the database sees to it
    (found,) = rows(connection, _query(table, _pair(subject, table)))
    if not found["pairs"]:
        return
    pairs = counted(found["pairs"], "pair of addresses has", "pairs of addresses have")
    what = f"{pairs} several open conversations"
    if subject.kind is Kind.OWN:
        yield trouble(
            "duplicates",
            f"{what}: {found['surplus']:,} too many. The unique index that forbids it is missing.",
            f"End all but one of each, then make the index. Which: {_WHICH.format(table=name_of(table))}",
        )
        return
    yield trouble(
        "duplicates",
        f"{what}. Adoption keeps one of each and ends the others as expired "
        f"(duplicate_session): at least {found['surplus']:,}, for it knows more spellings of a number.",
        "`lapse adopt` keeps the newest, `lapse adopt --keep oldest` the oldest; `--dry-run` shows it first, "
        "`--report FILE` lists them.",
    )


def _pair(subject: Subject, table: Table) -> str:
    """Return what tells one pair from another, as SQL."""
    channel = CHANNEL if "channel" in table.columns else "owner_id"  # all are of one channel
    if subject.is_current and subject.physical["session_key"] in table.columns:
        return f"{channel}, {subject.physical['session_key']}"
    # An estimate: lapse's own key knows more spellings of a number.
    one, other = (f"regexp_replace({name}, '^\\s*whatsapp:\\s*', '', 'i')" for name in ("from_number", "to_number"))
    return f"{channel}, least({one}, {other}), greatest({one}, {other})"


def _query(table: Table, pair: str) -> str:
    return (
        "SELECT count(*) AS pairs, coalesce(sum(n - 1), 0)::bigint AS surplus FROM (SELECT count(*) AS n "  # noqa: S608
        f"FROM {name_of(table)} WHERE status IN ({_OPEN}) GROUP BY owner_id, {pair} HAVING count(*) > 1) AS of_pair"
    )

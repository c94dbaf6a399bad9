"""What is in an application's table and in lapse's history of it, read beside lapse, and what must come of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from lapse.addresses import normalise_channel, session_key

OPEN = ("pending", "progress", "idle_timeout")
SHOWN = 5

# What may become of a row: everything else of it stays as it is. The deadlines are the specification's.
_ROWS = """
    SELECT conv_id::text, status, ended_at::text, md5(row({rest})::text) AS rest,
        CASE
            WHEN status IN ('pending', 'progress', 'idle_timeout') AND expires_at < now() THEN 'expired'
            WHEN status IN ('pending', 'progress')
                AND coalesce(updated_at, started_at, 'epoch') < now() - interval '30 minutes' THEN 'idle_timeout'
        END AS due
    FROM conversations"""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the application's."""

    conv_id: str
    status: str | None
    ended_at: str | None
    rest: str
    """A digest of the application's other columns."""
    due: str | None
    """What the next sweep makes of it, if something."""


Rows = dict[str, Row]


@dataclass(frozen=True, slots=True)
class Event:
    """A transition."""

    conv_id: str
    version: int
    type: str
    from_status: str
    to_status: str
    reason: str | None
    actor: str | None


def columns_of(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the names of the table's columns, in order."""
    found = connection.execute(
        """SELECT attname FROM pg_attribute
        WHERE attrelid = 'conversations'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""
    )
    return [name for (name,) in found]


def read_rows(connection: psycopg.Connection[Any], columns: list[str]) -> Rows:
    """Read every row; `columns` are the application's."""
    rest = ", ".join(name for name in columns if name not in ("status", "ended_at"))
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        return {row.conv_id: row for row in cursor.execute(_ROWS.format(rest=rest).encode())}


def version_column(connection: psycopg.Connection[Any]) -> str:
    """Return the name of lapse's `version`: it has another one where the application has its own."""
    return "lapse_version" if "lapse_version" in columns_of(connection) else "version"


def read_events(connection: psycopg.Connection[Any]) -> list[Event]:
    """Read the history, each conversation's in order."""
    query = f"""
        SELECT conv_id::text, {version_column(connection)} AS version, type, from_status, to_status, reason, actor
        FROM conversation_events ORDER BY conv_id, 2"""
    with connection.cursor(row_factory=class_row(Event)) as cursor:
        return list(cursor.execute(query.encode()))


def expected_duplicates(connection: psycopg.Connection[Any]) -> set[str]:
    """Return the open conversations that are not the newest of their pair, by lapse's own rules for addresses."""
    pairs: dict[tuple[Any, str, str], list[tuple[Any, Any]]] = defaultdict(list)
    found = connection.execute(
        """SELECT owner_id, channel, from_number, to_number, coalesce(started_at, 'epoch'), conv_id
        FROM conversations WHERE status IN ('pending', 'progress', 'idle_timeout')"""
    )
    for owner_id, channel, from_number, to_number, started_at, conv_id in found:
        name = normalise_channel(channel or "whatsapp")
        try:
            key = session_key(from_number, to_number, name)
        except ValueError:  # no addresses at all: these are a pair with nobody
            continue
        pairs[owner_id, name, key].append((started_at, conv_id))
    return {str(conv_id) for rows in pairs.values() for _, conv_id in sorted(rows)[:-1]}


def check_changes(before: Rows, after: Rows, expected: Mapping[str, str]) -> None:
    """Fail unless exactly these rows have got exactly these statuses, and nothing else has become of any."""
    assert before.keys() == after.keys(), f"{len(before.keys() ^ after.keys())} rows were lost or added"
    changed = {
        conv_id: row.status or ""
        for conv_id, row in after.items()
        if (row.status, row.ended_at) != (before[conv_id].status, before[conv_id].ended_at)
    }
    wrong = {conv_id for conv_id in changed.keys() | expected.keys() if changed.get(conv_id) != expected.get(conv_id)}
    shown = [(before[conv_id], after[conv_id], expected.get(conv_id)) for conv_id in sorted(wrong)[:SHOWN]]
    assert not wrong, f"{len(wrong)} rows changed otherwise than expected, such as {shown}"
    touched = [row for conv_id, row in after.items() if row.rest != before[conv_id].rest]
    assert not touched, f"{len(touched)} rows changed in other columns, such as {touched[:SHOWN]}"
    for conv_id, status in expected.items():
        is_closed = status not in OPEN
        assert (after[conv_id].ended_at is not None) == is_closed or before[conv_id].ended_at, after[conv_id]


def check_events(connection: psycopg.Connection[Any]) -> list[Event]:
    """Fail unless each conversation's events are numbered 1, 2, 3, … up to its version; return them all."""
    events = read_events(connection)
    of_each = Counter(event.conv_id for event in events)
    version = version_column(connection)
    found = connection.execute(f"SELECT conv_id::text, {version} FROM conversations WHERE {version} <> 0".encode())
    assert dict(found.fetchall()) == dict(of_each)
    place: Counter[str] = Counter()
    for event in events:
        place[event.conv_id] += 1
        assert event.version == place[event.conv_id], event
    return events


# A change of a row or of the schema, by whomever, leaves another transaction's number behind.
_CATALOG = {
    "columns": "SELECT attrelid, attname, xmin FROM pg_attribute WHERE attnum > 0 AND attrelid >= 16384",
    "tables and indexes": "SELECT oid, relname, xmin FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    "constraints": "SELECT oid, conname, xmin FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    "triggers": "SELECT oid, tgname, xmin FROM pg_trigger",
    "functions": "SELECT oid, proname, xmin FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
}


def fingerprints(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return digests of the schema and of every table that differ as soon as anything was written, even the same."""
    tables = connection.execute("SELECT relname FROM pg_stat_user_tables").fetchall()
    rows = {name: f"SELECT ctid, xmin FROM {name}" for (name,) in tables}
    return {
        name: connection.execute(
            f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM ({query}) AS t".encode()
        ).fetchall()[0][0]
        for name, query in {**_CATALOG, **rows}.items()
    }

"""Duplicates: several open conversations of one pair, of which one is kept and the others end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from lapse.adoption.adoption_record import NEWEST
from lapse.adoption.names import KEY_FUNCTION, Names
from lapse.adoption.row_words import DUPLICATE, OPEN
from lapse.adoption.session_key_sql import session_key_function
from lapse.adoption.wanted_indexes import CHANNEL
from lapse.models import AnyId

ADOPT = "adopt"
"""The actor of the events of conversations that an adoption ends."""
BATCH = 200
"""Conversations per statement, which holds their locks for about 50 ms."""
FETCH_LIMIT = 50_000
"""Duplicates that one query returns and memory holds."""

# Times as text: the application may have values that Python cannot represent (`infinity`).
_RANKED = """
SELECT owner_id, kept, conv_id, status, started_at::text, updated_at::text FROM (
    SELECT owner_id, conv_id, status, started_at, updated_at,
        row_number() OVER pair AS place, first_value(conv_id) OVER pair AS kept
    FROM {conversations} WHERE status IN {open}
    WINDOW pair AS (PARTITION BY owner_id, {channel}, {key} ORDER BY started_at {order}, conv_id {direction})
) AS ranked
WHERE ranked.place > 1
ORDER BY owner_id, kept, conv_id"""
_END = """
WITH claimed AS (
    SELECT c.owner_id, c.conv_id, c.status AS from_status, pair.kept
    FROM {pairs} AS pair
    JOIN {conversations} AS c ON c.conv_id = pair.conv_id
    WHERE c.status IN {open} AND EXISTS (
        SELECT FROM {conversations} AS k WHERE k.conv_id = pair.kept AND k.status IN {open}
            AND (k.owner_id, k.{key}) = (c.owner_id, c.{key})
    )
    FOR NO KEY UPDATE OF c SKIP LOCKED
), ended AS (
    UPDATE {conversations} AS c
    SET status = 'expired', ended_at = coalesce(c.ended_at, now()), {version} = c.{version} + 1
    FROM claimed WHERE c.conv_id = claimed.conv_id
    RETURNING c.owner_id, c.conv_id, c.{version}, claimed.from_status, claimed.kept
)
INSERT INTO {events} (owner_id, conv_id, {version}, type, from_status, to_status, reason, actor, occurred_at, data)
SELECT owner_id, conv_id, {version}, 'expired', from_status, 'expired', '{reason}', '{actor}', now(),
    jsonb_build_object('kept', kept, 'silent', true)
FROM ended"""
_ENDED_DUPLICATES = """
SELECT e.owner_id, e.data ->> 'kept', e.conv_id, e.from_status, c.started_at::text, c.updated_at::text
FROM {events} AS e LEFT JOIN {conversations} AS c USING (conv_id)
WHERE e.actor = '{actor}' AND e.reason = '{reason}' ORDER BY e.owner_id, e.data ->> 'kept', e.conv_id"""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An open conversation that ends because its pair has another one."""

    owner_id: AnyId
    kept_conv_id: AnyId
    conv_id: AnyId
    status: str
    started_at: str | None
    """As PostgreSQL prints it; None where it is NULL."""
    updated_at: str | None
    """As well."""


def _words(names: Names, key: str | None = None, *, has_channel: bool = True) -> dict[str, str]:
    return {
        "conversations": names.conversations,
        "events": names.events,
        "channel": CHANNEL if has_channel else "'whatsapp'::text",
        "key": key or names.column("session_key"),
        "version": names.column("version"),
        "open": OPEN,
        "reason": DUPLICATE,
        "actor": ADOPT,
    }


def duplicates_query(names: Names, keep: str, key: str | None = None, *, has_channel: bool = True) -> str:
    """Return the query that selects the duplicates.

    Args:
        names: of the table and its columns.
        keep: which open conversation of a pair is kept: `newest` or `oldest`.
        key: an expression to use in place of lapse's key; None for the column.
        has_channel: False where adoption has yet to add that column.
    """
    order, direction = ("DESC NULLS LAST", "DESC") if keep == NEWEST else ("ASC NULLS LAST", "ASC")
    return _RANKED.format(**_words(names, key, has_channel=has_channel), order=order, direction=direction)


def end_statement(names: Names, conv_id: str) -> str:
    """Return the statement that ends the given duplicates, each with its event; `conv_id` is the type of ids."""
    given = f"(SELECT * FROM unnest(%(ended)s::{conv_id}[], %(kept)s::{conv_id}[]) AS given (conv_id, kept))"  # noqa: S608 - a type
    words = {word: text.replace("%", "%%") for word, text in _words(names).items()}  # beside parameters
    return _END.format(**words, pairs=given).strip()


def end_all_statement(names: Names, keep: str) -> str:
    """Return the statement that ends all duplicates at once, for the printed plan."""
    return _END.format(**_words(names), pairs=f"({duplicates_query(names, keep).strip()})").strip()


def find_duplicates(connection: Connection[Any], names: Names, keep: str, limit: int | None = None) -> list[Duplicate]:
    """Return the duplicates by the keys of the rows, at most `limit`; None for all.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    query = f"{duplicates_query(names, keep)} LIMIT {'ALL' if limit is None else limit}"
    return [Duplicate(*row) for row in connection.execute(query.encode())]


def preview_duplicates(
    connection: Connection[Any], names: Names, keep: str, *, has_channel: bool = True
) -> list[Duplicate]:
    """Return the duplicates where no row has a key yet, by a temporary function that is rolled back.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    temporary = Names(schema="pg_temp")
    channel = "channel" if has_channel else "NULL::text"
    key = f"{temporary.qualified(KEY_FUNCTION)}(from_number, to_number, {channel})"
    query = duplicates_query(names, keep, key, has_channel=has_channel)
    with connection.transaction(force_rollback=True):
        connection.execute(session_key_function(temporary).encode())
        return [Duplicate(*row) for row in connection.execute(query.encode())]


def end_duplicates(
    connection: Connection[Any],
    names: Names,
    keep: str,
    conv_id: str,
    *,
    wait: Callable[[float], object],
    on_batch: Callable[[int, int], None],
) -> int:
    """End duplicates until there are none; return how many were ended.

    Args:
        connection: in autocommit mode: each batch is a transaction.
        names: of the table and its columns.
        keep: which open conversation of a pair is kept: `newest` or `oldest`.
        conv_id: the type of ids.
        wait: waits so many seconds; called with 0 between batches; may raise to stop.
        on_batch: receives the number of duplicates that are done, and their total.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    ended, statement = 0, end_statement(names, conv_id).encode()
    while duplicates := find_duplicates(connection, names, keep, FETCH_LIMIT):
        before = ended
        for number, batch in enumerate(_batches(duplicates), start=1):
            wait(0)
            parameters = {
                "ended": [duplicate.conv_id for duplicate in batch],
                "kept": [duplicate.kept_conv_id for duplicate in batch],
            }
            ended += connection.execute(statement, parameters).rowcount
            on_batch(min(number * BATCH, len(duplicates)), len(duplicates))
        if ended == before:
            wait(0.2)  # the remaining rows are locked
    return ended


def ended_duplicates(connection: Connection[Any], names: Names) -> list[Duplicate]:
    """Return the duplicates that this run and earlier ones have ended.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    return [Duplicate(*row) for row in connection.execute(_ENDED_DUPLICATES.format(**_words(names)).encode())]


def _batches(duplicates: Sequence[Duplicate]) -> Iterator[Sequence[Duplicate]]:
    return (duplicates[start : start + BATCH] for start in range(0, len(duplicates), BATCH))

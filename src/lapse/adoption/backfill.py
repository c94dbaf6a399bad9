"""Lapse's key and idle check for the rows that are there, in small batches, beside the application."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from psycopg import Connection

from lapse.adoption.names import KEY_FUNCTION, Names
from lapse.errors import AdoptionError

BATCH_SECONDS = 0.05
"""A row's writer waits no longer than this for the batch that holds it."""
FIRST_PAGES, MOST_PAGES = 8, 1_024
PAUSE_SECONDS = 0.2
"""Before another pass over rows that somebody had locked."""

# The pages are named twice: however the planner joins, it reads no others.
_BATCH = """
WITH batch AS MATERIALIZED (
    SELECT ctid, updated_at FROM {conversations}
    WHERE ctid >= '({first},0)'::tid AND ctid < '({end},0)'::tid AND {key} IS NULL
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {conversations} AS c
SET {key} = {key_function}(c.from_number, c.to_number, c.channel),
    {idle_check_at} = greatest(least(coalesce(c.updated_at, c.started_at, 'epoch'), now()), 'epoch')
        + c.{idle_timeout_seconds} * interval '1 second'
FROM batch
WHERE c.ctid >= '({first},0)'::tid AND c.ctid < '({end},0)'::tid AND c.ctid = batch.ctid
RETURNING c.updated_at IS DISTINCT FROM batch.updated_at AS is_touched"""
_IS_ONE_LEFT = "SELECT EXISTS (SELECT FROM {conversations} WHERE {key} IS NULL)"
_PAGES = "SELECT pg_relation_size(to_regclass(%s)) / current_setting('block_size')::bigint"


def batch_statement(names: Names, first: int, end: int) -> str:
    """Return the statement of one batch: the rows of some pages, without the one at the end, that nobody has locked."""
    return _BATCH.format(
        conversations=names.conversations,
        key=names.column("session_key"),
        key_function=names.qualified(KEY_FUNCTION),
        idle_check_at=names.column("idle_check_at"),
        idle_timeout_seconds=names.column("idle_timeout_seconds"),
        first=first,
        end=end,
    ).strip()


def is_row_left(connection: Connection[Any], names: Names) -> bool:
    """Tell whether a row has no key yet; reads the whole table if none is left."""
    query = _IS_ONE_LEFT.format(conversations=names.conversations, key=names.column("session_key"))
    row = connection.execute(query.encode()).fetchone()
    return row is not None and bool(row[0])


def backfill(
    connection: Connection[Any],
    names: Names,
    *,
    wait: Callable[[float], object],
    on_batch: Callable[[int, int], None],
) -> int:
    """Fill every row; return how many were filled. An update by the application fills a row as well: its trigger does.

    Args:
        connection: in autocommit mode: each batch is a transaction.
        names: of the table and its columns.
        wait: waits so many seconds; called between batches, too, with 0; may raise to stop.
        on_batch: is told how many pages of how many are done.

    Raises:
        AdoptionError: a trigger of the application's takes this for activity.
    """
    filled = 0
    while True:
        filled += _one_pass(connection, names, wait=wait, on_batch=on_batch)
        if not is_row_left(connection, names):
            return filled
        wait(PAUSE_SECONDS)


def _one_pass(
    connection: Connection[Any],
    names: Names,
    *,
    wait: Callable[[float], object],
    on_batch: Callable[[int, int], None],
) -> int:
    row = connection.execute(_PAGES, [names.conversations]).fetchone()
    pages, first, size, filled = (row[0] if row else 0), 0, FIRST_PAGES, 0
    while first < pages:
        wait(0)
        begin, end = time.monotonic(), first + size
        filled += _one_batch(connection, names, batch_statement(names, first, end))
        first = end
        seconds = max(time.monotonic() - begin, 0.001)
        size = max(1, min(MOST_PAGES, 2 * size, int(size * BATCH_SECONDS / seconds)))
        on_batch(min(first, pages), pages)
    return filled


def _one_batch(connection: Connection[Any], names: Names, statement: str) -> int:
    with connection.transaction():
        touched = [is_touched for (is_touched,) in connection.execute(statement.encode())]
        if any(touched):
            raise AdoptionError(
                f"a trigger on {names.conversations} still changes updated_at when lapse writes a column of its own; "
                "none of these rows was written: let it fire only WHEN a column of the application's has changed, and "
                "run it again"
            )
    return len(touched)

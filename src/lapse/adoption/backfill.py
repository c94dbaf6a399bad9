"""Backfill: sets what lapse needs to know of existing rows, in small batches, beside the application.

Their session keys and idle deadlines; and that what is in progress was answered: at its start, as far as is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import Connection

from lapse.adoption.names import KEY_FUNCTION, Names
from lapse.errors import AdoptionError
from lapse.lifecycle import ConversationStatus
from lapse.store.page_batches import in_page_batches

PASS_DELAY_SECONDS = 0.2
"""Before another pass over rows that were locked."""

# The range of pages is repeated: whichever join the planner chooses, it reads no others.
_BATCH = """
WITH batch AS MATERIALIZED (
    SELECT ctid, updated_at FROM {conversations}
    WHERE ctid >= '({first},0)'::tid AND ctid < '({end},0)'::tid AND {key} IS NULL
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {conversations} AS c
SET {key} = {key_function}(c.from_number, c.to_number, c.channel),
    {idle_check_at} = greatest(least(coalesce(c.updated_at, c.started_at, 'epoch'), now()), 'epoch')
        + c.{idle_timeout_seconds} * interval '1 second',
    {first_answered_at} = CASE WHEN c.status::text = '{progress}'
        THEN coalesce(c.{first_answered_at}, c.started_at, c.updated_at) ELSE c.{first_answered_at} END
FROM batch
WHERE c.ctid >= '({first},0)'::tid AND c.ctid < '({end},0)'::tid AND c.ctid = batch.ctid
RETURNING c.updated_at IS DISTINCT FROM batch.updated_at AS is_touched"""
_HAS_UNFILLED_ROWS = "SELECT EXISTS (SELECT FROM {conversations} WHERE {key} IS NULL)"
_PAGES = "SELECT pg_relation_size(to_regclass(%s)) / current_setting('block_size')::bigint"


def batch_statement(names: Names, first: int, end: int) -> str:
    """Return the statement of one batch: the unlocked rows of the pages from `first` to `end`, exclusive."""
    return _BATCH.format(
        conversations=names.conversations,
        key=names.column("session_key"),
        key_function=names.qualified(KEY_FUNCTION),
        idle_check_at=names.column("idle_check_at"),
        idle_timeout_seconds=names.column("idle_timeout_seconds"),
        first_answered_at=names.column("first_answered_at"),
        progress=ConversationStatus.PROGRESS.value,
        first=first,
        end=end,
    ).strip()


def has_unfilled_rows(connection: Connection[Any], names: Names) -> bool:
    """Tell whether a row has no key yet; reads the whole table if every row has one.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    query = _HAS_UNFILLED_ROWS.format(conversations=names.conversations, key=names.column("session_key"))
    row = connection.execute(query.encode()).fetchone()
    return row is not None and bool(row[0])


def backfill(
    connection: Connection[Any],
    names: Names,
    *,
    wait: Callable[[float], object],
    on_batch: Callable[[int, int], None],
) -> int:
    """Fill every row; return how many were filled here. An update by the application fills a row by lapse's trigger.

    Args:
        connection: in autocommit mode: each batch is a transaction.
        names: of the table and its columns.
        wait: waits so many seconds; called with 0 between batches; may raise to stop.
        on_batch: receives the number of pages that are done, and their total.

    Raises:
        AdoptionError: a trigger of the application's sets `updated_at` when lapse updates its own columns.
        psycopg.Error: the database refused, or the connection is lost.
    """
    filled = 0
    while True:
        filled += _one_pass(connection, names, wait=wait, on_batch=on_batch)
        if not has_unfilled_rows(connection, names):
            return filled
        wait(PASS_DELAY_SECONDS)


def _one_pass(
    connection: Connection[Any],
    names: Names,
    *,
    wait: Callable[[float], object],
    on_batch: Callable[[int, int], None],
) -> int:
    filled = 0

    def work(first: int, end: int) -> None:
        nonlocal filled
        filled += _one_batch(connection, names, batch_statement(names, first, end))

    row = connection.execute(_PAGES, [names.conversations]).fetchone()
    in_page_batches(row[0] if row else 0, work, wait=wait, on_batch=on_batch)
    return filled


def _one_batch(connection: Connection[Any], names: Names, statement: str) -> int:
    with connection.transaction():
        touched = [is_touched for (is_touched,) in connection.execute(statement.encode())]
        if any(touched):
            raise AdoptionError(
                f"a trigger on {names.conversations} still changes updated_at when lapse writes a column of its own; "
                "no row of the batch was changed: add a WHEN condition, so that it fires only when a column of the "
                "application's has changed, then run it again"
            )
    return len(touched)

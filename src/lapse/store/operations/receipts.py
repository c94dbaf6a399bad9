"""The retention of receipts: those that are old enough are deleted, in pieces of the table."""

from __future__ import annotations

from lapse.store.operations.steps import CLOCK, Query, Steps
from lapse.store.statements import Statements, receipts

RECEIPTS = "receipts"
"""The name of the task that deletes them."""
PIECE = {"postgresql": 128, "sqlite": 10_000}
"""Of one statement: a mebibyte of PostgreSQL's table, some 8,000 receipts; so many row numbers of SQLite's."""


def extent(sql: Statements) -> Steps[int]:
    """Return how large the table is, in the unit of `PIECE`."""
    if sql.shape.is_distributed:
        return 1
    return int((yield Query(sql(receipts.extent))).one().pieces)


def delete_piece(sql: Statements, first: int, seconds: int) -> Steps[int]:
    """Delete the receipts older than so many seconds of one piece of the table, and return their number.

    Args:
        sql: the statements.
        first: where the piece begins, in the unit of `PIECE`.
        seconds: how long receipts are kept.
    """
    if sql.shape.is_distributed:
        now = yield CLOCK
        return int((yield Query(sql(receipts.delete_all), {"seconds": seconds, "now": now})).one().deleted)
    dialect = sql.shape.dialect
    rows = yield Query(sql(receipts.delete_piece), {"first": first, "size": PIECE[dialect], "seconds": seconds})
    return len(rows) if dialect == "sqlite" else int(rows.one().deleted)

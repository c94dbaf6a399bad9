"""Messages of customers on existing conversations, by one thread on one connection, 10,000 conversations in turn.

`ConversationService.record_message` (addresses, session key, a new id, statement, row, result), and the bare driver:
`cursor.execute(…)` and `fetchone()` of psycopg, on a connection in autocommit without prepared statements, parameters
made beforehand. The bare driver sends the upsert that notes any message, and, for comparison, the `UPDATE` that lapse
sends where it knows that the pair had an open conversation a moment ago. Slices of half a second alternate; a ratio is
the median over pairs of slices.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg

from benchmarks.backlogs import live_customers
from benchmarks.bench import Bench
from benchmarks.messages import compare, sides
from benchmarks.results import Outcome
from lapse import ConversationService

TITLE = "The message path on PostgreSQL"


def run(bench: Bench) -> Outcome:
    """Compare with psycopg."""
    backlog = bench.backlog(between=90_000, live=10_000)
    customers = live_customers(backlog)
    with (
        bench.filled(backlog) as url,
        closing(ConversationService(url)) as service,
        psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection,
    ):
        cursor = connection.cursor()

        def execute(sql: str, parameters: Any) -> Any:
            return cursor.execute(sql, parameters).fetchone()

        both = sides(service, customers, execute)
        return compare(
            bench, both, len(customers), 0.8, "a message on PostgreSQL, against the same upsert in plain psycopg"
        )

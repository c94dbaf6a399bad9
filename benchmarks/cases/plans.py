"""The very statements that lapse sends, run under `EXPLAIN (ANALYZE, BUFFERS)` and rolled back.

The second sweep of 1,000 out of the 200,000 due conversations, one after half of them are done, and a message on an
existing conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import psycopg

from benchmarks.backlogs import live_customers
from benchmarks.bench import Bench, connect
from benchmarks.messages import record
from benchmarks.results import Outcome
from benchmarks.statements import explained, statements_of
from lapse import ConversationService
from tests.support.sweeps import sweep_expired

TITLE = "Plans"
BATCH = 1_000


def run(bench: Bench) -> Outcome:
    """Explain the sweep and the message."""
    backlog = bench.main_backlog()
    batch = bench.rows(BATCH, least=20)
    customers = live_customers(backlog)
    with bench.filled(backlog) as url, closing(ConversationService(url)) as service, connect(url) as connection:
        service.next_deadlines()  # schema and shape are asked for once: not a part of what is explained
        sweep = partial(sweep_expired, service.database, batch)
        texts = {"sweep": explain(connection, sweep)}
        following: dict[str, Any] = {}
        for _ in range(backlog.due // batch // 2):
            following = {"after": sweep(**following).last_deadline}
        texts["sweep-halfway"] = explain(connection, lambda: sweep(**following))
        texts["message"] = explain(connection, lambda: record(service, customers[0]))
        texts["message-of-a-known-pair"] = explain(connection, lambda: record(service, customers[0]))
    return Outcome(
        figures=[], parameters={"due": backlog.due, "rows": backlog.rows, "batch_size": batch}, raw={}, texts=texts
    )


def explain(connection: psycopg.Connection, call: Callable[[], Any]) -> str:
    """Return the plan of the one statement that the call sends, after the call."""
    (statement,) = statements_of(call)
    return explained(connection, statement)

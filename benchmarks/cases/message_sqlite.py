"""The same on SQLite: `record_message` against `sqlite3`.

On one file in WAL mode with `synchronous = NORMAL`, in slices that alternate. The present moment is a parameter there,
and each side reads and spells it for each message: with the same moment again SQLite would find nothing changed, and
write nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from benchmarks.bench import Bench
from benchmarks.messages import compare, record, sides
from benchmarks.results import Outcome
from lapse import ConversationService
from lapse.store import Database, migrate
from lapse.store.types import utc_text

TITLE = "The message path on SQLite"


def run(bench: Bench) -> Outcome:
    """Compare with sqlite3."""
    customers = range(1, bench.rows(10_000) + 1)
    path = bench.folder / "messages.db"
    url = f"sqlite:///{path}"
    fill(url, customers)
    with (
        closing(ConversationService(url)) as service,
        closing(Database(url)) as other,
        # A connection as lapse prepares it.
        closing(other.engine.raw_connection()) as pooled,
    ):
        connection = pooled.driver_connection
        assert isinstance(connection, sqlite3.Connection)

        def execute(sql: str, parameters: Any) -> Any:
            parameters["now"] = utc_text(datetime.now(UTC))
            return connection.execute(sql, parameters).fetchone()

        both = sides(service, customers, execute)
        return compare(
            bench, both, len(customers), 0.6, "a message on SQLite, against the same upsert in plain sqlite3"
        )


def fill(url: str, customers: Sequence[int]) -> None:
    """Open a conversation for each."""
    with closing(ConversationService(url)) as service:
        migrate(service.database)
        for number in customers:
            record(service, number)

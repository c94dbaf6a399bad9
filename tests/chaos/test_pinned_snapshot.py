"""Another session's open transaction pins a snapshot: nothing that the drain leaves behind can be cleaned up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from lapse import BackgroundWorker, ConversationService, Database, SweepResult
from tests.backlog import insert_conversations
from tests.chaos.ledger import History
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.invariants import check_invariants

T = TypeVar("T")
BACKLOG = scaled(small=2_000, full=100_000)
BATCH = 100


@contextmanager
def pinned_snapshot(database: Database) -> Iterator[None]:
    """Hold a snapshot, as a long report or a forgotten session does."""
    with database.engine.execution_options(isolation_level="REPEATABLE READ").begin() as connection:
        seen = connection.execute(sa.text("SELECT count(*) FROM conversations WHERE status = 'pending'")).scalar_one()
        yield
        again = connection.execute(sa.text("SELECT count(*) FROM conversations WHERE status = 'pending'")).scalar_one()
        assert seen == again, "the snapshot was not pinned"


class MeasuredDatabase(Database):
    """Notes how long each batch of a sweep takes."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.batches: list[float] = []

    def autocommit(self, work: Callable[[Any], T], *, retry: bool = True) -> T:
        """Run it as ever."""
        begin = time.perf_counter()
        result = super().autocommit(work, retry=retry)
        if isinstance(result, SweepResult) and result.claimed:
            self.batches.append(time.perf_counter() - begin)
        return result


def drain(url: str) -> list[float]:
    """Let a worker end what is due, and return the seconds of each batch."""
    with closing(MeasuredDatabase(url)) as database:
        assert BackgroundWorker(3_600, BATCH, service=ConversationService(database)).run_once()
        return database.batches


def test_a_pinned_snapshot_changes_no_outcome(chaos_url: str, outcome: Outcome) -> None:
    with closing(Database(chaos_url)) as database, closing(Database(chaos_url)) as reader:
        ago = -timedelta(hours=1)
        free_ids = insert_conversations(database, range(BACKLOG), expires_in=ago)
        free = drain(chaos_url)
        pinned_ids = insert_conversations(database, range(BACKLOG), expires_in=ago)
        with pinned_snapshot(reader):
            pinned = drain(chaos_url)
        check_invariants(database)
        history = History.of(database)
        assert sorted(history.events) == sorted(map(str, free_ids + pinned_ids))
        assert {event.type for events in history.events.values() for event in events} == {"expired"}
        outcome.add(
            database,
            conversations=len(history.conversations),
            batch=BATCH,
            batch_milliseconds_free=round(1_000 * statistics.median(free), 2),
            batch_milliseconds_pinned=round(1_000 * statistics.median(pinned), 2),
            last_batches_milliseconds_pinned=round(1_000 * statistics.median(pinned[-len(pinned) // 10 :]), 2),
        )

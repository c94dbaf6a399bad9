"""Another session's open transaction pins a snapshot: nothing that the drain leaves behind can be cleaned up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar, TypeVarTuple
from uuid import UUID

import sqlalchemy as sa

from lapse import BackgroundWorker, ConversationService, Database, SweepResult
from lapse.store.operations import Steps
from lapse.store.statements import Statements
from tests.chaos.ledger import History
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.support.backlog import insert_conversations
from tests.support.invariants import check_invariants

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
ROUNDS = scaled(small=1, full=4)
BACKLOG = scaled(small=1_000, full=25_000)
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

    def run(self, operation: Callable[[Statements, *Ts], Steps[T]], *arguments: *Ts, **options: Any) -> T:
        """Run it as ever."""
        begin = time.perf_counter()
        result = super().run(operation, *arguments, **options)
        if isinstance(result, SweepResult) and result.claimed:
            self.batches.append(time.perf_counter() - begin)
        return result


def drain(url: str) -> list[float]:
    """Let a worker end what is due, and return the seconds of each batch."""
    with closing(MeasuredDatabase(url)) as database:
        assert BackgroundWorker(3_600, BATCH, service=ConversationService(database)).run_once()
        return database.batches


def test_a_pinned_snapshot_changes_no_outcome(chaos_url: str, outcome: Outcome) -> None:
    ids: list[UUID] = []
    free: list[float] = []
    pinned: list[float] = []
    with closing(Database(chaos_url)) as database, closing(Database(chaos_url)) as reader:
        # By turns, so that whatever else the machine does slows down both.
        for _ in range(ROUNDS):
            for batches, snapshot in ((free, nullcontext()), (pinned, pinned_snapshot(reader))):
                ids += insert_conversations(database, range(BACKLOG), expires_in=-timedelta(hours=1))
                with snapshot:
                    batches.extend(drain(chaos_url))
        check_invariants(database)
        history = History.of(database)
        assert sorted(history.events) == sorted(map(str, ids))
        assert [event.type for events in history.events.values() for event in events] == ["expired"] * len(ids)
        outcome.add(
            database,
            conversations=len(history.conversations),
            batch=BATCH,
            batch_milliseconds_free=round(1_000 * statistics.median(free), 1),
            batch_milliseconds_pinned=round(1_000 * statistics.median(pinned), 1),
        )

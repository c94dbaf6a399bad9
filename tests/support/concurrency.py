"""Calls at the same moment, in threads with database connections of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa

from lapse import ConversationService, Database
from tests.support.sql import transaction

T = TypeVar("T")
PATIENCE_SECONDS = 30
MOST_TIMES_AS_MANY = 10
_WAITING = sa.text("""
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE datname = current_database() AND relation = 'conversations'::regclass AND NOT granted
""")


@contextmanager
def services(url: str, number: int) -> Iterator[list[ConversationService]]:
    """Open services on one database that share no connection, by the real clock; each has its connection already."""
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(ConversationService(url))) for _ in range(number)]
        for service in opened:
            service.next_deadlines()
        yield opened


def rounds(number: int, has_raced: Callable[[], bool]) -> Iterator[int]:
    """Count the rounds of a race: as many as asked for, and more where a slow machine lets one side win each time."""
    for current in range(number * MOST_TIMES_AS_MANY):
        if current >= number and has_raced():
            return
        yield current


def at_once(
    calls: Sequence[Callable[[], T]],
    release: Callable[[], None] | None = None,
    start: Callable[[], None] | None = None,
) -> list[T]:
    """Run the calls in a thread each, from the same moment on, and return their results in order.

    `release` is run beside them, where something else has to let them go; `start` when all of them are there, as the
    last thing before they go.
    """
    barrier = threading.Barrier(len(calls), start)

    def run(call: Callable[[], T]) -> T:
        barrier.wait(PATIENCE_SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(run, call) for call in calls]
        if release is not None:
            release()
        return [future.result(PATIENCE_SECONDS) for future in futures]


def through_one_door(database: Database, calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Let the calls reach `conversations` on PostgreSQL at the same moment: a lock holds them until all are there."""
    with transaction(database) as connection:
        connection.execute(sa.text("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE"))

        def open_when_all_are_there() -> None:
            deadline = time.monotonic() + PATIENCE_SECONDS
            try:
                while connection.execute(_WAITING).scalar_one() < len(calls):
                    assert time.monotonic() < deadline, "not all calls came to the database"
                    time.sleep(0.001)
            finally:
                connection.rollback()

        return at_once(calls, open_when_all_are_there)

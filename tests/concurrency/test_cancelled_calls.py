"""Calls from an event loop are cancelled at any moment: each is done or not done, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from lapse import AsyncConversationService, Database
from lapse.store.drivers.asyncio import CANCELLED_CALL_SECONDS
from tests.chaos.conftest import migrated, own_server
from tests.conftest import SERVERS, SQLITE, NewDatabase
from tests.support.backlog import BUSINESS, customer
from tests.support.cancelling import CancelledAt
from tests.support.invariants import check_invariants
from tests.support.pgbouncer import require_pgbouncer, running_pgbouncer, through_pooler
from tests.support.sql import run_sql, transaction
from tests.support.waiting import until

AT_RANDOM = 40
"""How often each call is cancelled at a moment by chance, besides once at each of its awaits."""
MIN_CANCELLED = 300
PAIRS = 10
PROMPT_SECONDS = 2.0
Call = Callable[[], Coroutine[Any, Any, object]]


@dataclass
class Given:
    """One database: its URL for the service, and another way to it."""

    url: str
    direct_url: str
    cancelled: int = field(default=0)

    def left_open(self) -> list[Any]:
        """Return the sessions of the service's that are in a transaction or a statement."""
        if self.direct_url.startswith("sqlite"):
            with closing(sqlite3.connect(self.direct_url.removeprefix("sqlite:///"), timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")  # raises where somebody writes
            return []
        query = (
            "SELECT state, query FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
            "AND pid <> pg_backend_pid()"
        )
        with psycopg.connect(self.direct_url.replace("+psycopg", ""), autocommit=True) as other:
            give_up_at = time.monotonic() + PROMPT_SECONDS
            while (found := other.execute(query).fetchall()) and time.monotonic() < give_up_at:
                time.sleep(0.01)  # a session whose client has left ends by itself
        return found


@pytest.fixture(params=[SQLITE, "postgresql", "pgbouncer"])
def given(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[Given]:
    if request.param == SQLITE:
        url = new_database(SQLITE)
        yield Given(url, url)
        return
    url = new_database(next(iter(request.config.stash[SERVERS].by_name)))
    if request.param == "postgresql":
        yield Given(url, url)
        return
    require_pgbouncer()
    with running_pgbouncer(url) as pooler:
        yield Given(through_pooler(pooler, url), url)


def calls_of(service: AsyncConversationService, chance: random.Random) -> dict[str, Call]:
    """Return every method of the service by a name, each on a pair by chance."""

    def pair() -> tuple[int, str, str]:
        return (1, customer(chance.randrange(PAIRS)), BUSINESS)

    async def of_live(call: Callable[[Any], Awaitable[object]]) -> object:
        return await call((await service.record_message(*pair())).conv_id)

    return {
        "message": lambda: service.record_message(*pair()),
        "answer": lambda: service.record_message(1, BUSINESS, pair()[1], sender="agent"),
        "open": lambda: service.get_or_create_conversation(*pair()),
        "create": lambda: service.create_conversation(1, f"c{chance.random()}", BUSINESS),
        "close": lambda: of_live(lambda conv_id: service.close_conversation(conv_id, "agent_closed")),
        "update": lambda: of_live(lambda conv_id: service.update_conversation(conv_id, context={"a": chance.random()})),
        "extend": lambda: of_live(lambda conv_id: service.extend_expiration(conv_id, 5)),
        "read": lambda: of_live(service.get_conversation_by_id),
        "events": lambda: of_live(service.get_conversation_events),
        "active": lambda: service.get_active_conversations(1),
        "history": lambda: service.get_conversation_history(*pair()),
        "find idle": lambda: service.find_idle_conversations(1 / 60),
        "find expired": service.find_expired_conversations,
        "sweep idle": lambda: service.process_idle_conversations(1 / 60),
        "sweep expired": service.process_expired_conversations,
        "deadlines": service.next_deadlines,
    }


def in_the_pool(service: AsyncConversationService) -> list[Any]:
    """Return the service's connections, all of which have come back."""
    if service.database.blocking.dialect == "sqlite":
        pools = (service.database.blocking._pool, service.database.blocking._reading_pool)
        slots = [slot for pool in pools for slot in pool._idle]
        assert len(slots) == sum(known() is not None for pool in pools for known in pool._slots)
        return [slot.connection for slot in slots]
    pool = service.database._pool
    assert pool._free._value == pool._size
    return list(pool._idle)


async def cancel_everywhere(given: Given, chance: random.Random) -> None:
    async with AsyncConversationService(given.url) as service:
        for name, call in calls_of(service, chance).items():
            await call()  # connected, and the schema looked at
            begin = time.perf_counter()
            await call()
            usual = time.perf_counter() - begin
            moment = 1
            while await is_cancelled(given, awaited := CancelledAt(call(), moment)):
                moment += 1
            assert awaited.waits < moment, name
            for _ in range(AT_RANDOM):
                await is_cancelled(given, call(), after=chance.uniform(0, 1.2 * usual))
            assert all(connection.is_idle() for connection in in_the_pool(service)), name
            assert given.left_open() == [], name
        assert len(in_the_pool(service)) <= 2, "one after the other, so one connection, and one that reads"


async def is_cancelled(given: Given, call: Awaitable[object], after: float | None = None) -> bool:
    """Await a call, and cancel it after so many seconds; tell whether it was."""

    async def work() -> None:
        await call

    task = asyncio.create_task(work())
    if after is not None:
        await asyncio.sleep(after)
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        given.cancelled += 1
        return True
    return False


def test_a_call_that_is_cancelled_at_any_moment_leaves_nothing_behind(given: Given) -> None:
    chance = random.Random(f"{given.url.partition(':')[0]}")
    asyncio.run(cancel_everywhere(given, chance))
    assert given.cancelled > MIN_CANCELLED
    with closing(Database(given.direct_url)) as database:
        check_invariants(database)


@pytest.mark.parametrize("first", ["message", "active"])
def test_a_first_call_that_is_cancelled_leaves_no_session(given: Given, first: str) -> None:
    """It connects, and looks at the shape of the database and at its schema."""

    async def run() -> None:
        moment, is_over = 1, False
        while not is_over:
            async with AsyncConversationService(given.url) as service:
                call = CancelledAt(calls_of(service, random.Random(moment))[first](), moment)
                is_over = not await is_cancelled(given, call)
                assert all(connection.is_idle() for connection in in_the_pool(service))
                assert (await service.next_deadlines()).now is not None
            moment += 1

    asyncio.run(run())
    assert given.cancelled >= (1 if given.url.startswith("sqlite") else 5)
    assert given.left_open() == []
    if given.url == given.direct_url and not given.url.startswith("sqlite"):
        with psycopg.connect(given.direct_url.replace("+psycopg", ""), autocommit=True) as other:
            query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'lapse' AND datname = current_database()"
            until(lambda: other.execute(query).fetchall() == [])


# --- what is cancelled is not done later ------------------------------------------------------------------------------


@contextmanager
def locked(given: Given) -> Iterator[None]:
    """Keep all conversations from being written."""
    with closing(Database(given.direct_url)) as database, transaction(database) as other:
        if database.dialect == "postgresql":  # a transaction of SQLite's that may write locks all of it
            other.exec_driver_sql("LOCK TABLE conversations IN EXCLUSIVE MODE")
        yield


def contents(given: Given) -> list[Any]:
    with closing(Database(given.direct_url)) as database:
        return [
            [str(row) for row in run_sql(database, f"SELECT * FROM {table}")]
            for table in ("conversations", "conversation_events")
        ]


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("name", ["message", "answer", "close", "update", "extend", "sweep"])
def test_what_was_cancelled_while_it_waited_is_not_done_later(given: Given, name: str, times: int) -> None:
    async def run() -> None:
        async with AsyncConversationService(given.url) as service:
            opened = await service.record_message(1, customer(1), BUSINESS)
            calls: dict[str, Call] = {
                "message": lambda: service.record_message(1, customer(1), BUSINESS),
                "answer": lambda: service.record_message(1, BUSINESS, customer(1), sender="agent"),
                "close": lambda: service.close_conversation(opened.conv_id, "failed", owner_id=1),
                "update": lambda: service.update_conversation(opened.conv_id, metadata={"a": 1}, owner_id=1),
                "extend": lambda: service.extend_expiration(opened.conv_id, 5, owner_id=1),
                "sweep": service.process_expired_conversations,
            }
            before = contents(given)
            with locked(given):
                task = asyncio.create_task(calls[name]())
                await asyncio.sleep(0.15)
                assert not task.done()
                begin = time.monotonic()
                for _ in range(times):  # whoever cancels may be impatient
                    task.cancel()
                    await asyncio.sleep(0.0005)
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - begin < PROMPT_SECONDS, "the lock is not waited for"
            assert given.left_open() == []
            assert contents(given) == before
            assert (await service.record_message(1, customer(1), BUSINESS)).conv_id == opened.conv_id

    asyncio.run(run())


def test_a_message_that_is_cancelled_takes_no_other_with_it(given: Given) -> None:
    """Those that come while a statement is at the database go in the next one together."""

    async def run() -> None:
        async with AsyncConversationService(given.url) as service:
            await service.get_active_conversations(1)
            with locked(given):
                calls = [asyncio.create_task(service.record_message(1, customer(n), BUSINESS)) for n in range(1, 21)]
                await asyncio.sleep(0.05)
                for call in calls[::2]:
                    call.cancel()
                await asyncio.sleep(0.15)
            await asyncio.wait(calls)
            assert all(call.cancelled() for call in calls[::2])
            recorded = [call.result() for call in calls[1::2]]
            for conversation in recorded:
                assert conversation is not None
                assert await service.get_conversation_by_id(conversation.conv_id) == conversation

    asyncio.run(run())


def test_a_silent_server_is_given_up() -> None:
    async def run(url: str) -> None:
        async with AsyncConversationService(url) as service:
            await service.record_message(1, customer(1), BUSINESS)
            with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
                found = other.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'lapse'")
                pids = [pid for (pid,) in found]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                task = asyncio.create_task(service.record_message(1, customer(1), BUSINESS))
                await asyncio.sleep(0.1)
                begin = time.monotonic()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - begin < CANCELLED_CALL_SECONDS + 1
                assert in_the_pool(service) == []
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            await service.record_message(1, customer(1), BUSINESS)

    with own_server() as process:
        asyncio.run(run(migrated(process)))


def test_a_loop_that_ends_ends_its_calls(given: Given) -> None:
    """As at Ctrl-C: every task is cancelled at once, and nobody closes the service."""
    calls: list[asyncio.Task[object]] = []

    async def run(*, is_locked: bool) -> None:
        service = AsyncConversationService(given.url)
        await service.get_active_conversations(1)
        calls[:] = [asyncio.create_task(service.record_message(1, customer(n), BUSINESS)) for n in range(30)]
        if is_locked:
            await asyncio.sleep(0.15)
        else:
            await asyncio.gather(*calls)
            await service.close()

    asyncio.run(run(is_locked=False))
    before = contents(given)
    with locked(given):
        begin = time.monotonic()
        asyncio.run(run(is_locked=True))
        assert time.monotonic() - begin < PROMPT_SECONDS
    assert all(call.cancelled() for call in calls)
    assert given.left_open() == []
    assert contents(given) == before

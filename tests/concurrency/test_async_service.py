"""The service for event loops where the loop matters: many tasks, time limits, the first call and the last one."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from lapse import (
    AsyncConversationService,
    CallTimeoutError,
    ConversationNotFoundError,
    ConversationService,
    Database,
    InvalidInputError,
    SchemaMissingError,
    load_settings,
)
from lapse.store.async_database import AsyncDatabase
from lapse.store.database import MAX_CONNECTIONS
from lapse.store.limits import Limits, current
from lapse.store.operations import schema
from tests.support.backlog import BUSINESS, customer
from tests.support.invariants import check_invariants
from tests.support.proxy import Proxy
from tests.support.sql import count, run_sql, transaction

TASKS, MESSAGES_EACH, PAIRS = 40, 10, 15
LIMIT_SECONDS = 3
OWN = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lapse' AND datname = current_database()"


def test_many_tasks_share_one_service(database: Database, database_url: str) -> None:
    chance = random.Random(7)

    async def converse(service: AsyncConversationService) -> None:
        for _ in range(MESSAGES_EACH):
            pair = customer(chance.randrange(PAIRS))
            opened = await service.record_message(1, pair, BUSINESS)
            await service.record_message(1, BUSINESS, pair, sender="agent")
            assert (await service.get_conversation_by_id(opened.conv_id)).status == "progress"

    async def run() -> None:
        async with AsyncConversationService(database_url) as service:
            await asyncio.gather(*(converse(service) for _ in range(TASKS)))

    asyncio.run(run())
    assert count(database, "conversations") == PAIRS
    check_invariants(database)


# --- time limits ------------------------------------------------------------------------------------------------------


@contextmanager
def locked(database: Database) -> Iterator[None]:
    with transaction(database) as other:
        if database.dialect == "postgresql":
            other.exec_driver_sql("SELECT 1 FROM conversations FOR UPDATE")
        yield


def test_a_call_ends_in_time_while_the_loop_goes_on(database: Database, database_url: str) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    async def run() -> None:
        settings = load_settings(call_timeout_seconds=LIMIT_SECONDS)
        async with AsyncConversationService(database_url, settings=settings) as service:
            opened = await service.record_message(1, customer(1), BUSINESS)
            ticking = asyncio.create_task(tick())
            with locked(database):
                begin = time.monotonic()
                with pytest.raises(CallTimeoutError, match="LAPSE_CALL_TIMEOUT, 3 seconds"):
                    await service.close_conversation(opened.conv_id, "failed")
                assert time.monotonic() - begin < LIMIT_SECONDS + 0.3
                assert ticks > LIMIT_SECONDS / 0.02 / 4
                assert await service.get_active_conversations(1) == [opened], "who only reads waits for nobody"
            assert (await service.close_conversation(opened.conv_id, "failed")).status == "failed"
            ticking.cancel()

    asyncio.run(run())


def test_who_only_reads_waits_for_no_writer(database: Database, database_url: str) -> None:
    async def run() -> None:
        async with AsyncConversationService(database_url) as service:
            opened = await service.record_message(1, customer(1), BUSINESS)
            writers = 2 * MAX_CONNECTIONS if database.dialect == "sqlite" else MAX_CONNECTIONS - 1
            with locked(database):
                calls = [asyncio.create_task(service.extend_expiration(opened.conv_id)) for _ in range(writers)]
                await asyncio.sleep(0.1)
                async with asyncio.timeout(2):
                    assert await service.get_active_conversations(1) == [opened]
                assert not any(call.done() for call in calls)
            assert max([extended.expires_at for extended in await asyncio.gather(*calls)]) > opened.expires_at

    asyncio.run(run())


def test_the_time_of_a_call_is_no_other_calls(database_url: str) -> None:
    async def run() -> None:
        quick, slow = (
            AsyncConversationService(database_url, settings=load_settings(call_timeout_seconds=seconds))
            for seconds in (3, 30)
        )
        async with quick, slow:
            seen: list[Limits] = []
            ensure_schema = AsyncDatabase.ensure_schema

            async def seeing(database: AsyncDatabase) -> None:
                await asyncio.sleep(0.01)
                seen.append(current())
                await ensure_schema(database)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(AsyncDatabase, "ensure_schema", seeing)
                await asyncio.gather(*(s.record_message(1, customer(1), BUSINESS) for s in (quick, slow, quick)))
            assert [limits.seconds for limits in seen] == [3, 30, 3]
            assert current() == Limits()

    asyncio.run(run())


def test_a_database_that_comes_back_is_waited_for(postgres_url: str) -> None:
    proxy = Proxy(postgres_url)

    async def run() -> None:
        async with AsyncConversationService(proxy.url) as service:
            first = await service.record_message(1, customer(1), BUSINESS)
            await asyncio.to_thread(proxy.close)
            threading.Timer(0.3, proxy.open).start()
            assert (await service.record_message(1, customer(1), BUSINESS)).conv_id == first.conv_id

    with closing(proxy):
        proxy.open()
        asyncio.run(run())


# --- the first call and the last one ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "first.db"


def test_a_look_up_makes_no_file_and_finds_nothing(file: Path) -> None:
    url = f"sqlite:///{file}"

    async def run() -> list[Any]:
        async with AsyncConversationService(url) as service:
            found = [
                await service.get_active_conversations(1),
                await service.get_conversation_history(1, customer(1), BUSINESS),
                await service.find_idle_conversations(),
                await service.find_expired_conversations(),
                (await service.next_deadlines()).due_at,
            ]
            for look_up in (service.get_conversation_by_id, service.get_conversation_events):
                with pytest.raises(ConversationNotFoundError):
                    await look_up(UUID(int=1))
                with pytest.raises(InvalidInputError):
                    await look_up("no id")
            assert not file.exists()
            await service.record_message(1, customer(1), BUSINESS)
            assert len(await service.get_active_conversations(1)) == 1
            return found

    nothing = [[], [], [], [], {"idle_conversations": None, "expired_conversations": None}]
    assert asyncio.run(run()) == nothing
    file.unlink()
    with ConversationService(url) as service:
        assert service.get_active_conversations(1) == []
        assert service.get_conversation_history(1, customer(1), BUSINESS) == []
        assert service.find_idle_conversations() == service.find_expired_conversations() == []
        assert service.next_deadlines().due_at == nothing[-1]
        for look_up in (service.get_conversation_by_id, service.get_conversation_events):
            with pytest.raises(ConversationNotFoundError):
                look_up(UUID(int=1))
            with pytest.raises(InvalidInputError):
                look_up("no id")
        assert not file.exists()


def test_a_server_without_tables_is_an_error_of_every_call(empty_postgres_url: str) -> None:
    async def run() -> None:
        async with AsyncConversationService(empty_postgres_url) as service:
            for call in (
                lambda: service.get_active_conversations(1),
                lambda: service.record_message(1, customer(1), BUSINESS),
                service.process_expired_conversations,
            ):
                with pytest.raises(SchemaMissingError):
                    await call()

    asyncio.run(run())


def test_the_schema_is_looked_at_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    check = schema.check

    def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return check(*arguments)

    monkeypatch.setattr("lapse.store.async_database.check", counted)
    monkeypatch.setattr("lapse.store.operations.schema.check", counted)

    async def run() -> None:
        async with AsyncConversationService(database_url) as service:
            for number in range(3):
                await service.record_message(1, customer(number), BUSINESS)
                await service.get_active_conversations(1)

    asyncio.run(run())
    assert looks == 1


def test_a_service_that_is_left_has_no_connection_and_connects_anew(database: Database, database_url: str) -> None:
    def connections() -> int:
        if database.dialect == "sqlite":
            return sum(thread.name.startswith("lapse-sqlite") for thread in threading.enumerate())
        return int(run_sql(database, OWN)[0][0])

    before = connections()

    async def run() -> None:
        async with AsyncConversationService(database_url) as service:
            await asyncio.gather(*(service.record_message(1, customer(number), BUSINESS) for number in range(5)))
            assert connections() > before
        wait_until_gone()
        await service.get_active_conversations(1)
        await service.close()

    def wait_until_gone() -> None:
        give_up_at = time.monotonic() + 5  # the server takes its time to end a session
        while connections() > before:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)

    asyncio.run(run())
    wait_until_gone()
    if database.dialect == "postgresql":
        with ConversationService(database_url) as service:
            service.get_active_conversations(1)
            assert connections() > before
        wait_until_gone()


def test_sqlite_needs_no_driver_of_postgresql(file: Path) -> None:
    code = f"""
import asyncio, sys
from lapse.aio import AsyncConversationService

async def run():
    async with AsyncConversationService("sqlite:///{file}") as service:
        await service.record_message(1, "+5511990000001", "+14155238886")

asyncio.run(run())
print("psycopg" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

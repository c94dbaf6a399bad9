"""Group commit: an outage ends every wait in time, nobody is left out, and groups really form."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.base_events import BaseEventLoop
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from lapse import AsyncConversationService, CallTimeoutError, Database, DatabaseUnavailableError, MessageResult
from lapse.store import async_group_commit
from lapse.store.drivers.asyncio import AsyncPostgresqlConnection
from lapse.store.drivers.postgresql import PostgresqlConnection
from tests.chaos.conftest import migrated, own_server, wait_for_server
from tests.concurrency.callers import KINDS, PATIENCE_SECONDS, Callers, calling, locked, message_of, outcomes_of, plain
from tests.support.invariants import check_invariants
from tests.support.postgres_process import ServerProcess
from tests.support.sql import run_sql
from tests.support.waiting import until

LIMIT_SECONDS = 3.0
GRACE_SECONDS = 1.0
CALLERS = 200

kinds = pytest.mark.parametrize("kind", KINDS)


# --- (f) an outage ----------------------------------------------------------------------------------------------------


@contextmanager
def stopped(process: ServerProcess) -> Iterator[None]:
    """Leave the server away."""
    process.stop("immediate")
    yield
    process.start()
    wait_for_server(process, 10)


@contextmanager
def silent(process: ServerProcess) -> Iterator[None]:
    """Leave the server's sessions, and what would make new ones, standing still."""
    with psycopg.connect(plain(process.admin_url), autocommit=True) as other:
        found = other.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'lapse'").fetchall()
    pids = [pid for (pid,) in found]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


OUTAGES = {"stopped": stopped, "silent": silent}


@kinds
@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_ends_every_call_in_time_and_then_it_works_again(kind: str, outage: str) -> None:
    with own_server() as process:
        url = migrated(process)
        with calling(kind, url, LIMIT_SECONDS) as callers:
            wait(callers.start_all([message_of(n) for n in range(CALLERS)]))
            with OUTAGES[outage](process):
                errors = errors_of_calls(callers)
            if outage == "stopped":
                assert set(errors) <= {CallTimeoutError, DatabaseUnavailableError}
            else:  # sessions that are made meanwhile do answer
                assert set(errors) <= {CallTimeoutError, DatabaseUnavailableError, None}
            again = callers.start_all([message_of(n) for n in range(CALLERS)])
            assert set(outcomes_of(again)) == {"continued"}
        with closing(Database(url)) as database:
            check_invariants(database)


def errors_of_calls(callers: Callers) -> list[type[BaseException] | None]:
    """Return the error of each of many calls that begin one after the other; fail where one is later than its limit."""
    begun = []
    for number in range(CALLERS):
        call = callers.start(message_of(number))
        ended = list[float]()
        call.add_done_callback(partial(_note_end, ended))
        begun.append((call, time.monotonic(), ended))
        time.sleep(0.002)
    errors = []
    for call, begin, ended in begun:
        error = call.exception(LIMIT_SECONDS + 5)
        errors.append(None if error is None else type(error))
        until(partial(bool, ended))  # noted after whoever waits is told
        assert ended[0] - begin < LIMIT_SECONDS + GRACE_SECONDS
    return errors


def _note_end(ended: list[float], _call: object) -> None:
    ended.append(time.monotonic())


@kinds
def test_callers_with_less_time_end_no_other_call(postgres_url: str, kind: str) -> None:
    """All conversations are locked for longer than the hasty ones have, and their groups end with them."""
    with calling(kind, postgres_url) as patient, calling(kind, postgres_url, LIMIT_SECONDS) as hasty:
        wait(patient.start_all([message_of(n) for n in range(40)]))
        with locked(postgres_url, *range(40)):
            waiting = patient.start_all([message_of(n) for n in range(0, 40, 2)])
            given_up = hasty.start_all([message_of(n) for n in range(1, 40, 2)])
            assert set(outcomes_of(given_up)) == {"CallTimeoutError"}
            assert not any(call.done() for call in waiting)
        assert set(outcomes_of(waiting)) == {"continued"}


# --- (g) more callers than may wait -----------------------------------------------------------------------------------


def test_more_tasks_than_may_wait_are_all_answered(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_group_commit, "MAX_WAITING", 5)
    with calling("asyncio", postgres_url) as callers:
        for _ in range(3):
            calls = callers.start_all([message_of(n, message_id=None) for n in range(300)])
            assert set(outcomes_of(calls)) <= {"opened", "continued"}
        with locked(postgres_url, *range(50)):
            calls = callers.start_all([message_of(n) for n in range(50)])
            time.sleep(0.2)
            calls[0].cancel()
            assert not any(call.done() for call in calls[1:])
        assert set(outcomes_of(calls[1:])) == {"continued"}


def test_a_task_that_waits_for_room_is_woken_when_there_is_some(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not for every group: with 60,000 tasks their callers' time was up."""
    most, together, turns = 30, 1_000, 0
    call_soon = BaseEventLoop.call_soon

    def counted(loop: BaseEventLoop, *arguments: Any, **options: Any) -> Any:
        nonlocal turns
        turns += 1
        return call_soon(loop, *arguments, **options)

    monkeypatch.setattr(async_group_commit, "MAX_WAITING", 5)
    with calling("asyncio", postgres_url) as callers:
        wait(callers.start_all([message_of(n) for n in range(5)]))
        monkeypatch.setattr(BaseEventLoop, "call_soon", counted)
        calls = callers.start_all([message_of(n % 5) for n in range(together)])
        assert set(outcomes_of(calls)) == {"continued"}
    assert turns < most * together


def test_a_loop_whose_tasks_were_all_cancelled_records_the_next_message(database_url: str) -> None:
    """As a program does when it ends: even a task of lapse's own that has not begun."""

    async def main() -> MessageResult:
        async with AsyncConversationService(database_url) as service:
            await service.record(message_of(0))
            calls = [asyncio.create_task(service.record(message_of(n))) for n in range(1, 4)]
            await asyncio.sleep(0)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert others > set(calls)
            for task in others:
                task.cancel()
            await asyncio.wait(others)
            return await asyncio.wait_for(service.record(message_of(4)), PATIENCE_SECONDS)

    assert asyncio.run(main()).outcome == "opened"


def test_who_waits_is_answered_though_a_program_cancels_what_is_lapses_own(database_url: str) -> None:
    async def main() -> list[MessageResult]:
        async with AsyncConversationService(database_url) as service:
            await service.record(message_of(0))
            callers = [asyncio.create_task(service.record(message_of(n % 3))) for n in range(30)]
            await asyncio.sleep(0.001)
            own = [task for task in asyncio.all_tasks() if task.get_name() == "lapse group commit"]
            assert own
            for task in own:
                task.cancel()
            return await asyncio.wait_for(asyncio.gather(*callers), PATIENCE_SECONDS)

    assert {result.outcome for result in asyncio.run(main())} == {"opened", "continued"}


# --- (h) groups form --------------------------------------------------------------------------------------------------


class Counted:
    """Counts the statements that are sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements = 0
        run, run_async = PostgresqlConnection.run, AsyncPostgresqlConnection.run

        def counted(connection: Any, *arguments: Any) -> Any:
            self.statements += 1
            return run(connection, *arguments)

        async def counted_async(connection: Any, *arguments: Any) -> Any:
            self.statements += 1
            return await run_async(connection, *arguments)

        monkeypatch.setattr(PostgresqlConnection, "run", counted)
        monkeypatch.setattr(AsyncPostgresqlConnection, "run", counted_async)


@kinds
@pytest.mark.parametrize("has_ids", [False, True], ids=["without ids", "with ids"])
def test_far_fewer_statements_than_messages_are_sent(
    postgres_url: str, kind: str, has_ids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, rounds = 64, 30
    with calling(kind, postgres_url) as callers:
        wait(callers.start_all([message_of(n) for n in range(together)]))
        sent = Counted(monkeypatch)
        for turn in range(rounds):
            ids = [f"{turn}-{n}" if has_ids else None for n in range(together)]
            calls = [message_of(n, message_id=ids[n]) for n in range(together)]
            assert set(outcomes_of(callers.start_all(calls))) == {"continued"}
        messages = together * rounds
        assert 0 < sent.statements < messages / 5, f"{sent.statements} statements for {messages} messages"
    if has_ids:
        with closing(Database(postgres_url)) as database:
            assert run_sql(database, "SELECT count(*) FROM message_receipts") == [(messages,)]


@kinds
def test_messages_of_one_pair_at_once_are_no_obstacle_to_each_other(
    postgres_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two statements are at the database at once, never are messages of one pair in both."""
    together = 64
    with calling(kind, postgres_url) as callers:
        wait([callers.start(message_of(1))])
        sent = Counted(monkeypatch)
        for _ in range(5):
            calls = callers.start_all([message_of(n % 2) for n in range(together)])
            assert set(outcomes_of(calls)) <= {"opened", "continued"}
        assert 0 < sent.statements < 5 * together / 4


@kinds
def test_a_process_that_has_just_begun_takes_what_is_open_together_too(
    postgres_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = 64
    with calling("threads", postgres_url) as before:
        wait(before.start_all([message_of(n) for n in range(4 * together)]))
    with calling(kind, postgres_url) as callers:
        wait([callers.start(message_of(0))])
        sent = Counted(monkeypatch)
        for turn in range(1, 4):
            calls = [message_of(n) for n in range(turn * together, (turn + 1) * together)]
            assert set(outcomes_of(callers.start_all(calls))) == {"continued"}
        assert 0 < sent.statements < together


def test_two_statements_of_an_event_loop_are_at_the_database_at_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more, however many callers there are."""
    running, most = 0, 0
    run = AsyncPostgresqlConnection.run

    async def watched(connection: Any, *arguments: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await run(connection, *arguments)
        finally:
            running -= 1

    with calling("asyncio", postgres_url) as callers:
        wait(callers.start_all([message_of(n) for n in range(CALLERS)]))
        monkeypatch.setattr(AsyncPostgresqlConnection, "run", watched)
        for _ in range(10):
            calls = callers.start_all([message_of(n) for n in range(CALLERS)])
            assert set(outcomes_of(calls)) == {"continued"}
    assert most == async_group_commit.LANES

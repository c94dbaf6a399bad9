"""Group commit: a thread that is interrupted, or a task that is cancelled, at any moment takes nobody else with it."""

from __future__ import annotations

import asyncio
import ctypes
import linecache
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from types import FrameType
from typing import Any

import pytest

from lapse import AsyncConversationService, ConversationService, Database, LapseError
from lapse.store import group_commit
from tests.chaos.interrupted import HardLimitError
from tests.concurrency.callers import message_of
from tests.support.cancelling import CancelledAt
from tests.support.invariants import check_invariants
from tests.support.sql import run_sql

VICTIMS, OTHERS = 4, 12
INTERRUPTIONS = 400
LONGEST_SECONDS = 5.0
"""Far less than a call's limit of ten seconds: nobody waits for somebody who has gone."""


class Sender(threading.Thread):
    """Sends one message after the other, each with an id of its own, and keeps what was answered."""

    def __init__(self, service: ConversationService, number: int, is_over: threading.Event) -> None:
        super().__init__(name=f"sender-{number}")
        self._service, self._number, self._is_over = service, number, is_over
        self.answered: list[str] = []
        self.errors: list[BaseException] = []
        self.kept: list[BaseException] = []
        """With all their frames, as a `Future` keeps them."""
        self.longest = 0.0
        self.interrupted = 0

    def run(self) -> None:
        """Send until it is over."""
        ids = count()
        while not self._is_over.is_set():
            try:
                message_id = f"{self._number}-{next(ids)}"
                begin = time.monotonic()
                self._service.record(message_of(self._number, message_id=message_id))
                self.longest = max(self.longest, time.monotonic() - begin)
                self.answered.append(message_id)
            except HardLimitError as error:
                self.interrupted += 1
                self.kept.append(error)
            except LapseError as error:
                self.errors.append(error)

    def interrupt(self) -> None:
        """Inject an exception, wherever it is."""
        assert self.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(HardLimitError))


@contextmanager
def sending(service: ConversationService) -> Iterator[tuple[list[Sender], list[Sender]]]:
    """Run senders, of which the first ones will be interrupted."""
    is_over = threading.Event()
    senders = [Sender(service, number, is_over) for number in range(VICTIMS + OTHERS)]
    for sender in senders:
        sender.start()
    try:
        yield senders[:VICTIMS], senders[VICTIMS:]
    finally:
        is_over.set()
        for sender in senders:
            sender.join(20)
            assert not sender.is_alive(), f"{sender.name} waits for ever"


def test_a_thread_that_is_interrupted_takes_no_other_with_it(database: Database, database_url: str) -> None:
    chance = random.Random(20260105)
    with closing(ConversationService(database_url)) as service:
        service.record(message_of(0))
        with sending(service) as (victims, others):
            deadline = time.monotonic() + 60
            while sum(victim.interrupted for victim in victims) < INTERRUPTIONS and time.monotonic() < deadline:
                chance.choice(victims).interrupt()
                time.sleep(chance.uniform(0, 0.01))
            time.sleep(0.2)
            for sender in victims:
                sender.kept.clear()
        assert sum(victim.interrupted for victim in victims) >= INTERRUPTIONS
        assert [error for sender in [*victims, *others] for error in sender.errors] == []
        assert [sender.interrupted for sender in others] == [0] * OTHERS
        assert max(sender.longest for sender in [*victims, *others]) < LONGEST_SECONDS
        noted = {row.message_id for row in run_sql(database, "SELECT message_id FROM message_receipts")}
        assert {message_id for sender in [*victims, *others] for message_id in sender.answered} <= noted
        assert all(sender.answered for sender in others)
        # And it still works, in groups as well.
        with sending(service) as (again, _):
            time.sleep(0.3)
        assert all(sender.answered for sender in again)
    check_invariants(database)


class AtLine:
    """Raises in the first of some threads that comes to the nth line of a function, and keeps the exception."""

    FUNCTIONS = ("_join", "_wait", "_hand_over", "_pass_on", "_lead")

    def __init__(self, function: str, moment: int) -> None:
        self._function, self._left = function, moment
        self.errors: list[BaseException] = []
        self.longest = 0.0

    def send(self, service: ConversationService, number: int) -> None:
        """Send messages, in the thread that calls this."""
        sys.settrace(self._trace)
        try:
            for _ in range(6):
                begin = time.monotonic()
                service.record(message_of(number))
                self.longest = max(self.longest, time.monotonic() - begin)
        except (HardLimitError, LapseError) as error:
            self.errors.append(error)
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        code = frame.f_code
        if code.co_filename != group_commit.__file__ or code.co_name != self._function:
            return None
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        if event == "line" and not line.startswith("with "):  # between two steps of a lock nothing comes
            self._left -= 1
            if self._left == 0:
                raise HardLimitError
        return self._trace


@pytest.mark.parametrize("function", AtLine.FUNCTIONS)
def test_a_thread_that_is_interrupted_at_any_line_leaves_nobody_waiting(
    database: Database, database_url: str, function: str
) -> None:
    together, struck = 8, 0
    with closing(ConversationService(database_url)) as service:
        service.record(message_of(0))
        for moment in range(1, 70):
            one = AtLine(function, moment)
            threads = [threading.Thread(target=one.send, args=(service, number)) for number in range(together)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert [type(error) for error in one.errors] in ([], [HardLimitError]), moment
            assert one.longest < LONGEST_SECONDS, moment
            struck += len(one.errors)
    assert struck > 20
    check_invariants(database)


@pytest.mark.parametrize("place", ["first", "last", "every second", "all but one"])
def test_a_task_that_is_cancelled_at_any_await_takes_no_other_with_it(
    database: Database, database_url: str, place: str
) -> None:
    together, ids = 12, count()
    chosen = {
        "first": {0},
        "last": {together - 1},
        "every second": set(range(0, together, 2)),
        "all but one": set(range(together - 1)),
    }[place]
    answered, cancelled = list[str](), 0

    async def run() -> None:
        nonlocal cancelled
        async with AsyncConversationService(database_url) as service:
            await service.record(message_of(0))

            async def send(number: int, moment: int) -> None:
                message_id = f"m{next(ids)}"
                call = service.record(message_of(number, message_id=message_id))
                await (CancelledAt(call, moment) if number in chosen else call)
                answered.append(message_id)

            for turn in range(60):
                tasks = [asyncio.create_task(send(number, 1 + turn % 3)) for number in range(together)]
                if turn % 2:  # by chance, too
                    await asyncio.sleep(random.Random(turn).uniform(0, 0.004))
                    for number in chosen:
                        tasks[number].cancel()
                done, pending = await asyncio.wait(tasks, timeout=LONGEST_SECONDS)
                assert not pending, "somebody waits for ever"
                for number, task in enumerate(tasks):
                    if task.cancelled():
                        assert number in chosen
                        cancelled += 1
                    else:
                        assert task.exception() is None
            assert len(done) == together

    asyncio.run(run())
    assert cancelled >= 20 * len(chosen)
    noted = {row.message_id for row in run_sql(database, "SELECT message_id FROM message_receipts")}
    assert set(answered) <= noted
    check_invariants(database)

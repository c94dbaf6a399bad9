"""A process whose calls are interrupted at random moments: `python -m tests.chaos.interrupted ORDERS` (JSON).

Task queues end a task that takes too long by an exception out of a signal handler, or by one that another thread
injects; on an event loop a call is cancelled. After each interruption an ordinary message is sent by the same service
and looked for from another connection: what was answered must be there, and nothing may stay open.
"""

from __future__ import annotations

import ctypes
import json
import random
import secrets
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import psycopg

from lapse import ConversationService, Database, LapseError, Message
from tests.support.backlog import BUSINESS, customer
from tests.support.loop_database import LoopDatabase, LoopService

OWN_PAIRS = 20
WITNESS_PAIR = 999
MOST_TRIES = 50
LONGEST_OPEN_SECONDS = 2.0
"""A backend that was told to give up its statement may take so long to do so."""


class SoftLimitError(Exception):
    """The time limit of a task queue, as an `Exception`."""


class HardLimitError(BaseException):
    """The same as none: nothing on the way may swallow it."""


KINDS: dict[str, type[BaseException]] = {
    "exception": SoftLimitError,
    "base_exception": HardLimitError,
    "cancelled": CancelledError,
}


class ByAlarm:
    """Interrupts the main thread by a signal handler that raises."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error
        self._is_armed = False
        signal.signal(signal.SIGALRM, self._strike)

    def _strike(self, _number: int, _frame: object) -> None:
        if self._is_armed:
            raise self._error

    @contextmanager
    def after(self, seconds: float) -> Iterator[None]:
        """Interrupt what is inside so many seconds from now, if it is still going on."""
        self._is_armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            self._is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)


class ByInjection:
    """Interrupts the main thread by an exception that another thread injects."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error
        self._target = threading.get_ident()

    @contextmanager
    def after(self, seconds: float) -> Iterator[None]:
        """Interrupt as `ByAlarm.after` does. An injection that comes too late is waited for here."""
        is_inside = threading.Event()
        injector = threading.Thread(target=self._strike, args=(is_inside, seconds))
        injector.start()
        try:
            is_inside.set()  # not sooner: a start that is interrupted says so by another error
            yield
        finally:
            injector.join()

    def _strike(self, is_inside: threading.Event, seconds: float) -> None:
        is_inside.wait()
        time.sleep(seconds)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._target), ctypes.py_object(self._error))


class ByCancellation:
    """Cancels the call, on the event loop that does it."""

    def __init__(self, database: LoopDatabase) -> None:
        self._database = database

    @contextmanager
    def after(self, seconds: float) -> Iterator[None]:
        """Cancel what is inside so many seconds from now, if it is still going on."""
        canceller = threading.Timer(seconds, self._database.cancel)
        canceller.start()
        try:
            yield
        finally:
            canceller.join()
            self._database.settle()


class Witness:
    """Another program's connection to the same database."""

    def __init__(self, url: str) -> None:
        self._sqlite: sqlite3.Connection | None = None
        if url.startswith("sqlite"):
            self._sqlite = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=0)
        else:
            self._postgres = psycopg.connect(url.replace("+psycopg", ""), autocommit=True, application_name="witness")

    def updated_at(self, conv_id: Any) -> str:
        """Return when the conversation was active last, as the database writes it in UTC."""
        if self._sqlite is not None:
            rows = self._sqlite.execute("SELECT updated_at FROM conversations WHERE conv_id = ?", [str(conv_id)])
            return str(rows.fetchall()[0][0])
        query = (
            "SELECT to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') FROM conversations "
            "WHERE conv_id = %s"
        )
        return str(self._postgres.execute(query, [conv_id]).fetchall()[0][0])

    def what_is_open(self) -> str | None:
        """Return what of the service's is open still: a transaction, a statement, a lock."""
        if self._sqlite is not None:
            try:
                self._sqlite.execute("BEGIN IMMEDIATE")
                self._sqlite.execute("ROLLBACK")
            except sqlite3.OperationalError as error:
                return str(error)
            return None
        deadline = time.monotonic() + LONGEST_OPEN_SECONDS
        query = (
            "SELECT state || ': ' || query FROM pg_stat_activity "
            "WHERE application_name = 'lapse' AND datname = current_database() AND state <> 'idle'"
        )
        while found := self._postgres.execute(query.encode()).fetchall():
            if time.monotonic() > deadline:
                return str(found[0][0])
        return None


def calls_of(service: ConversationService, chance: random.Random) -> dict[str, Callable[[], object]]:
    """Return every operation of the service by its name, each on a pair by chance."""

    def pair() -> tuple[int, str, str]:
        return (1, customer(chance.randrange(OWN_PAIRS)), BUSINESS)

    def live() -> Any:
        return service.record_message(*pair()).conv_id

    def close(status: str) -> object:
        return service.close_conversation(live(), status)

    def together() -> object:
        own = [Message(*pair(), message_id=secrets.token_hex()) for _ in range(10)]
        return service.record_messages([*own, *own])

    return {
        "message": lambda: service.record_message(*pair()),
        "update": lambda: service.update_conversation(live(), metadata={"of": chance.randrange(9)}),
        "answer": lambda: service.record_message(1, BUSINESS, pair()[1], sender="agent"),
        "open": lambda: service.get_or_create_conversation(*pair()),
        "close": lambda: close("agent_closed"),
        "fail": lambda: close("failed"),
        "extend": lambda: service.extend_expiration(live(), 5),
        "read": lambda: service.get_conversation_by_id(live()),
        "events": lambda: service.get_conversation_events(live()),
        "active": lambda: service.get_active_conversations(1),
        "history": lambda: service.get_conversation_history(*pair()),
        "find idle": lambda: service.find_idle_conversations(1 / 60),
        "find expired": service.find_expired_conversations,
        "sweep idle": lambda: service.process_idle_conversations(1 / 60),
        "sweep expired": service.process_expired_conversations,
        "deadlines": service.next_deadlines,
        "purge": lambda: service.conversation_repo.purger.purge(1 / 86_400),
        # After the purge: a receipt stays when its conversation is purged, which the invariants do not know.
        "message with an id": lambda: service.record_message(*pair(), message_id=secrets.token_hex()),
        "messages together": together,
    }


def typical_seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes that nothing interrupts."""
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds)[2]


def run(url: str, kind: str, means: str, times: int, seed: str) -> dict[str, Any]:
    """Interrupt each operation so many times, if it can be done, and return what was seen."""
    chance, witness = random.Random(seed), Witness(url)
    database = LoopDatabase(url) if means == "cancellation" else Database(url)
    service = LoopService(database) if isinstance(database, LoopDatabase) else ConversationService(database)
    error = KINDS[kind]
    interrupt: ByAlarm | ByInjection | ByCancellation
    if isinstance(database, LoopDatabase):
        interrupt = ByCancellation(database)
    else:
        interrupt = (ByAlarm if means == "alarm" else ByInjection)(error)
    calls = calls_of(service, chance)
    made, interrupted = dict.fromkeys(calls, 0), dict.fromkeys(calls, 0)
    complaints: list[str] = []
    for name, call in calls.items():
        usual = typical_seconds(call)
        # Some strikes come too early or too late.
        while interrupted[name] < times and made[name] < MOST_TRIES * times:
            made[name] += 1
            begin = time.perf_counter()
            try:
                with interrupt.after(chance.uniform(20e-6, 1.2 * usual)):
                    call()
                    usual = time.perf_counter() - begin  # the strike came too late: the machine may be faster by now
            except error:
                interrupted[name] += 1
            except LapseError as refused:
                complaints.append(f"{name}: {type(refused).__name__}: {refused}")
            try:
                message = service.record_message(1, customer(WITNESS_PAIR), BUSINESS)
            except LapseError as refused:
                complaints.append(f"after {name}: {type(refused).__name__}: {refused}")
                continue
            if witness.updated_at(message.conv_id) != message.updated_at.strftime("%Y-%m-%d %H:%M:%S.%f"):
                complaints.append(f"after {name}: answered and not there")
            if (left := witness.what_is_open()) is not None:
                complaints.append(f"after {name}: {left}")
    service.close()
    return {"made": made, "interrupted": interrupted, "complaints": complaints}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(**json.loads(sys.argv[1]))))

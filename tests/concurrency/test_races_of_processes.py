"""Races on SQLite, between processes: they share nothing but the file, as workers and applications do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lapse import Database
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.commands import environment
from tests.support.invariants import check_invariants
from tests.support.sql import count, run_sql

PAIRS = 25
BACKLOG = 1_000
PATIENCE_SECONDS = 60

# Answers each line of JSON with one: [URL, method, arguments, …] of a service, as often as there are arguments.
CALLER = """
import json, sys
from lapse import ConversationService, LapseError

services = {}

def answer(service, method, arguments):
    try:
        found = getattr(service, method)(**arguments)
    except LapseError as error:
        return f"{type(error).__name__}: {error}"
    return found if isinstance(found, int) else str(found.conv_id)

print("ready", flush=True)
for line in sys.stdin:
    url, method, *calls = json.loads(line)
    service = services.setdefault(url, ConversationService(url))
    print(json.dumps([answer(service, method, arguments) for arguments in calls]), flush=True)
for service in services.values():
    service.close()
"""


class Callers:
    """Processes that each have services of their own."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes
        assert [self._line_of(process) for process in processes] == ["ready"] * len(processes)

    def call(self, url: str, method: str, calls: list[dict[str, Any]]) -> list[list[Any]]:
        """Let every process make these calls, all from the same moment on; returns each one's answers."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps([url, method, *calls]) + "\n")
            process.stdin.flush()
        return [json.loads(self._line_of(process)) for process in self._processes]

    @staticmethod
    def _line_of(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()


@contextmanager
def callers(number: int) -> Iterator[Callers]:
    """Start that many processes; they end with their standard input."""
    command, pipe = [sys.executable, "-c", CALLER], subprocess.PIPE
    with ExitStack() as stack:
        processes = []
        for _ in range(number):
            process = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, encoding="utf-8")
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        yield Callers(processes)
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(PATIENCE_SECONDS) == 0


@pytest.fixture
def observed(new_database: Callable[..., str]) -> Iterator[Database]:
    """Return an embedded database with lapse's schema, beside those that race."""
    with closing(Database(new_database("sqlite"))) as database:
        yield database


def url_of(database: Database) -> str:
    return f"sqlite:///{database.path}"


def message(pair: int) -> dict[str, Any]:
    return {"owner_id": 1, "from_number": customer(pair), "to_number": BUSINESS, "channel": "sms"}


def test_four_processes_open_one_conversation(observed: Database) -> None:
    with callers(4) as processes:
        for pair in range(PAIRS):
            answers = processes.call(url_of(observed), "record_message", [message(pair)] * 3)
            newest = run_sql(observed, "SELECT conv_id FROM conversations ORDER BY started_at DESC LIMIT 1")
            assert {(answer,) for answers_of_one in answers for answer in answers_of_one} == set(newest)
    assert count(observed, "conversations") == PAIRS
    check_invariants(observed)


def test_four_processes_make_the_schema_and_open_one_conversation(tmp_path: Path) -> None:
    with callers(4) as processes:
        for number in range(10):
            file = tmp_path / f"new{number}.db"
            assert not file.exists()
            answers = processes.call(f"sqlite:///{file}", "record_message", [message(1)])
            with closing(Database(f"sqlite:///{file}")) as database:
                assert run_sql(database, "SELECT conv_id FROM conversations") == [tuple(answers[0])]
                assert answers == [answers[0]] * len(answers)
                check_invariants(database)


@pytest.mark.parametrize("task", ["idle", "expired"])
def test_two_processes_end_each_of_a_backlog_once(observed: Database, task: str) -> None:
    day = timedelta(days=1)
    expires_in = -day if task == "expired" else day
    ids = insert_conversations(observed, range(BACKLOG), silent_for=2 * day, expires_in=expires_in)
    ended = [0, 0]
    with callers(2) as processes:
        # In rounds, since SQLite is not fair: who waits for the lock sleeps, and the other one would do everything.
        while sum(ended) < BACKLOG:
            answers = processes.call(url_of(observed), f"process_{task}_conversations", [{"limit": 10}] * 5)
            assert sum(map(sum, answers)) == 100
            ended = [before + sum(counts) for before, counts in zip(ended, answers, strict=True)]
        assert processes.call(url_of(observed), f"process_{task}_conversations", [{}]) == [[0], [0]]
    assert sum(ended) == BACKLOG
    events = run_sql(observed, "SELECT conv_id, version FROM conversation_events")
    assert sorted(event.conv_id for event in events) == sorted(str(conv_id) for conv_id in ids)
    assert {event.version for event in events} == {1}
    check_invariants(observed)

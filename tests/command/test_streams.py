"""Standard streams that are closed, full, or read by nobody: what is said is lost, what is done is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from lapse import ConversationService, Database, migrate
from tests.support.backlog import insert_conversations
from tests.support.commands import LAPSE, environment
from tests.support.waiting import until

URL = "sqlite:///chat.db"


@pytest.fixture
def database() -> Iterator[Database]:
    with closing(Database(URL)) as opened:
        migrate(opened)
        yield opened


def run_in_shell(command: str, redirections: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *LAPSE, *command.split()],
        env=environment({"DATABASE_URL": URL}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def unreadable_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    ("command", "redirections"),
    [("--help", ">&-"), ("status", "<&- >&-"), ("status", ">/dev/full"), ("migrate", ">&-")],
)
def test_what_cannot_be_printed_is_a_failure_in_one_line(command: str, redirections: str, database: Database) -> None:
    result = run_in_shell(command, redirections)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("lapse: reading or writing failed: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("redirections", ["<&- 2>&-", "2>/dev/full"])
def test_an_error_that_cannot_be_printed_keeps_its_exit_code(redirections: str, database: Database) -> None:
    result = run_in_shell("status", redirections)
    assert (result.returncode, result.stderr) == (0, "")
    assert "schema" in result.stdout
    assert run_in_shell("status --database-url sqlite:///nowhere/chat.db", redirections).returncode == 1


@pytest.mark.parametrize("redirections", [">&-", "<&- >&- 2>&-", ">/dev/full 2>&1"])
def test_a_cycle_whose_log_cannot_be_written_does_its_work(redirections: str, database: Database) -> None:
    insert_conversations(database, range(3), expires_in=-timedelta(minutes=1))
    result = run_in_shell("worker --once", redirections)
    assert (result.returncode, result.stderr) == (0, "")
    with closing(ConversationService(URL)) as service:
        assert service.find_expired_conversations() == []
        assert service.conversation_repo.count_open_by_status() == {"pending": 0, "progress": 0, "idle_timeout": 0}


@pytest.mark.parametrize("nobody", ["a full disk", "a reader that has gone"])
def test_a_worker_goes_on_and_stops_as_ever_when_its_log_cannot_be_written(nobody: str, database: Database) -> None:
    with (
        unreadable_pipe() as pipe,
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(
            [*LAPSE, "worker", "--interval", "0.05", "--min-wait", "0"],
            env=environment({"DATABASE_URL": URL, "LOG_LEVEL": "DEBUG"}),
            stdin=subprocess.DEVNULL,
            stdout=full if nobody == "a full disk" else pipe,
            stderr=subprocess.PIPE,
            text=True,
        ) as worker,
    ):
        with closing(ConversationService(URL)) as service:
            for batch in (range(3), range(3, 6)):  # the second one after lines that could not be written
                insert_conversations(database, batch, expires_in=-timedelta(minutes=1))
                until(lambda: service.find_expired_conversations() == [])
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=30)
    assert (worker.returncode, errors) == (0, "")


OPENED = """
import os, sys
os.close(1)
sys.stdout = None
from lapse.cli.streams import open_closed_streams
open_closed_streams()
with open("first_file", "w") as file:
    print(file.fileno() > 2, os.path.exists("/proc/self/fd/1"), file=sys.stderr)
"""


def test_the_next_file_does_not_get_the_place_of_a_closed_stream() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", OPENED], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stderr == "True True\n"

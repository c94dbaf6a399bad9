"""The application's worker and lapse's end the conversations of one table together: none ends twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.adoption.legacy_table import PLAIN, connect, create_legacy_table
from tests.chaos.scale import scaled
from tests.conftest import SERVERS, NewDatabase
from tests.support.commands import run_lapse, running_lapse
from tests.support.waiting import until

ROWS = 3_000
"""Half of them are idle, half past their expiry; none is both, and so none ends in two steps."""
DUE_WITHIN_SECONDS = 3

_FILL = f"""
    INSERT INTO conversations (owner_id, from_number, to_number, status, started_at, updated_at, expires_at)
    SELECT 1 + n % 5, '+1212' || lpad(n::text, 7, '0'), '+14155238886',
        CASE WHEN n % 4 < 2 THEN 'pending' ELSE 'progress' END, now() - interval '3 hours',
        CASE WHEN n % 2 = 0 THEN now() ELSE soon - interval '30 minutes' END,
        CASE WHEN n % 2 = 0 THEN soon ELSE now() + interval '1 day' END
    FROM (SELECT n, now() + interval '{DUE_WITHIN_SECONDS} seconds' * (n::float / {ROWS}) AS soon
        FROM generate_series(1, {ROWS}) AS n) AS numbers"""
_WATCH = """
    CREATE TABLE seen (conv_id bigint, before text, after text, ended_before timestamptz);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO seen VALUES (OLD.conv_id, OLD.status, NEW.status, OLD.ended_at); RETURN NULL;
        END';
    CREATE TRIGGER see AFTER UPDATE ON conversations FOR EACH ROW
        WHEN ((OLD.status, OLD.ended_at) IS DISTINCT FROM (NEW.status, NEW.ended_at)) EXECUTE FUNCTION see()"""


@dataclass(frozen=True)
class _Task:
    """One of the legacy worker's: it selects what is due, and updates the rows one by one."""

    due: str
    values: str


# Not `now()`: two workers that begin in the same microsecond would write the same end, the second one to no effect, but
# counted.
_TASKS = (
    _Task("updated_at < now() - interval '30 minutes'", "status = 'idle_timeout', ended_at = clock_timestamp()"),
    _Task("expires_at < now()", "status = 'expired', ended_at = clock_timestamp()"),
)


class _LegacyWorker:
    """Runs its tasks until it is told to stop; counts what the database says that it updated."""

    def __init__(self, url: str) -> None:
        self.tries = 0
        self.updated = 0
        self.errors: list[psycopg.Error] = []
        self._url = url
        self._stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def stop(self) -> None:
        """Let it finish its row."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            with connect(self._url) as connection:
                while not self._stopping.wait(0.02):
                    for task in _TASKS:
                        self._do(connection, task)
        except psycopg.Error as error:
            self.errors.append(error)

    def _do(self, connection: psycopg.Connection[Any], task: _Task) -> None:
        select = f"SELECT conv_id FROM conversations WHERE status IN ('pending', 'progress') AND {task.due} LIMIT 100"
        update = f"UPDATE conversations SET {task.values} WHERE conv_id = %s"
        for row in connection.execute(select.encode()).fetchall():
            if self._stopping.is_set():
                return
            self.tries += 1
            self.updated += connection.execute(update.encode(), row).rowcount
            time.sleep(0.001)  # its round trip is a longer one


@contextmanager
def _legacy_workers(url: str, number: int) -> Iterator[list[_LegacyWorker]]:
    workers = [_LegacyWorker(url) for _ in range(number)]
    for worker in workers:
        worker.thread.start()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.thread.join(20)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run on one server, not the one that the adoption under fire runs on; in a full run on all."""
    names = list(metafunc.config.stash[SERVERS].by_name)
    metafunc.parametrize("server", scaled(small=names[-1:], full=names))


def test_nothing_ends_twice_beside_the_old_worker(server: str, new_database: NewDatabase) -> None:
    url = new_database(server, migrated=False)
    with connect(url) as connection, ExitStack() as stack:
        create_legacy_table(connection, PLAIN)
        adopted = run_lapse("adopt", "--database-url", url)
        assert adopted.returncode == 0, adopted.stderr
        connection.execute(_WATCH)
        arguments = ["worker", "--database-url", url, "--interval", "1", "--batch-size", "20", "--accept-backlog"]
        lapses = [stack.enter_context(running_lapse(*arguments)) for _ in range(2)]
        for worker in lapses:
            worker.wait_for("worker started")
        connection.execute(_FILL.encode())
        until(lambda: _events(connection) > 0, seconds=30)  # else a busy machine leaves all of it to the legacy workers
        with _legacy_workers(url, 2) as workers:
            until(lambda: _active(connection) == 0, seconds=30)
        for worker in lapses:
            worker.stop(15)
            assert worker.stderr == ""
        assert [worker.errors for worker in workers] == [[], []]
        check_each_ended_once(connection, workers)


def check_each_ended_once(connection: psycopg.Connection[Any], workers: list[_LegacyWorker]) -> None:
    """Fail unless each row ended once, by one of both sides, and both and their collisions are in the count."""
    seen = connection.execute("SELECT conv_id, before, after, ended_before FROM seen").fetchall()
    assert Counter(row[0] for row in seen).most_common(1)[0][1] == 1
    assert len(seen) == ROWS
    ends = Counter(row[2] for row in seen)
    assert ends == {"expired": ROWS // 2, "idle_timeout": ROWS // 2}
    assert {row[1] for row in seen} == {"pending", "progress"}
    assert {row[3] for row in seen} == {None}, "an end was moved"
    updated, tries = (sum(getattr(worker, name) for worker in workers) for name in ("updated", "tries"))
    events = _events(connection)
    assert updated + events == ROWS
    assert updated > 0
    assert events > 0
    assert tries > updated, "the legacy worker was never too late: nothing was tried here"


def _events(connection: psycopg.Connection[Any]) -> int:
    return int(connection.execute("SELECT count(*) FROM conversation_events").fetchall()[0][0])


def _active(connection: psycopg.Connection[Any]) -> int:
    query = "SELECT count(*) FROM conversations WHERE status IN ('pending', 'progress')"
    return int(connection.execute(query).fetchall()[0][0])

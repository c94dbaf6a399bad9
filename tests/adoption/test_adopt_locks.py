"""Adopting waits for the application, and the application does not wait for it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lapse.adoption.plan import INSTALL, VALIDATE
from lapse.shutdown import StopEvent
from lapse.store import statement_progress
from tests.adoption.adoption_helpers import (
    ENDED,
    LegacyConnection,
    RecordingReporter,
    adopt,
    adopt_until,
    error_codes,
    filled_table,
    values,
)
from tests.adoption.legacy_table import connect
from tests.support.waiting import until


@pytest.fixture
def filled(empty_postgres_url: str) -> Iterator[LegacyConnection]:
    with connect(empty_postgres_url) as connection:
        yield filled_table(connection)


@contextmanager
def in_background(url: str) -> Iterator[RecordingReporter]:
    """Adopt meanwhile, and wait for the end afterwards; where the test has failed, end it."""
    progress, stop_event = RecordingReporter(), StopEvent()
    with ThreadPoolExecutor(1) as executor:
        adopting = executor.submit(adopt, url, progress=progress, stop_event=stop_event)
        try:
            yield progress
        except BaseException:
            stop_event.set()
            raise
        adopting.result(timeout=60)


def test_a_row_that_the_application_holds_makes_nobody_wait(filled: LegacyConnection, empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as holder:
        adopt_until(empty_postgres_url, INSTALL)
        holder.execute("BEGIN; SELECT FROM conversations WHERE conv_id = 7 FOR UPDATE")
        with in_background(empty_postgres_url):
            until(lambda: values(filled, "SELECT count(*) FROM conversations WHERE session_key IS NULL") == [1])
            assert longest_write(filled, 0.5) < 0.3
            holder.execute("ROLLBACK")
    assert values(filled, "SELECT count(*) FROM conversations WHERE session_key IS NULL") == [0]
    assert error_codes(empty_postgres_url) == []


def test_nobody_waits_long_behind_an_adoption_that_waits_for_a_lock(
    filled: LegacyConnection, empty_postgres_url: str
) -> None:
    with connect(empty_postgres_url, application_name="checkout") as holder:
        holder.execute("BEGIN; UPDATE conversations SET user_id = 1 WHERE conv_id = 1")
        with in_background(empty_postgres_url) as progress:
            until(lambda: progress.messages)
            assert longest_write(filled, 2) < 0.3
            assert re.search(r"pid \d+ \(checkout\)", progress.messages[-1])
            holder.execute("COMMIT")
    assert error_codes(empty_postgres_url) == []


def test_who_is_waited_for_before_an_index_is_built_is_named(
    filled: LegacyConnection, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statement_progress, "FIRST_POLL_SECONDS", 0.1)
    monkeypatch.setattr(statement_progress, "POLL_SECONDS", 0.1)
    adopt_until(empty_postgres_url, VALIDATE)
    with connect(empty_postgres_url, application_name="report") as holder:
        holder.execute("BEGIN; UPDATE conversations SET user_id = 1 WHERE conv_id = 1")
        with in_background(empty_postgres_url) as progress:
            until(lambda: len(progress.messages) > 1)
            holder.execute("COMMIT")
    assert "resuming the adoption that began at" in progress.messages[0]
    assert re.fullmatch(r"waiting for the transaction of pid \d+ \(report\)", progress.messages[1])
    assert error_codes(empty_postgres_url) == []


def test_an_autovacuum_gives_way(filled: LegacyConnection, empty_postgres_url: str) -> None:
    # One that somebody runs by hand does not, and is waited for: nobody waits behind that.
    with connect(empty_postgres_url) as holder:
        holder.execute("BEGIN; LOCK TABLE conversations IN SHARE UPDATE EXCLUSIVE MODE")
        with in_background(empty_postgres_url):
            waiting = "SELECT mode FROM pg_locks WHERE NOT granted AND relation = 'conversations'::regclass"
            assert until(lambda: values(filled, waiting)) == ["ShareUpdateExclusiveLock"]
            assert longest_write(filled, 0.3) < 0.1
            holder.execute("COMMIT")
    assert error_codes(empty_postgres_url) == []


def longest_write(connection: LegacyConnection, seconds: float) -> float:
    """Write as the application does for so long, and return how long the slowest of its statements took."""
    end, longest = time.monotonic() + seconds, 0.0
    while (begin := time.monotonic()) < end:
        connection.execute("UPDATE conversations SET updated_at = now() WHERE conv_id = 200")
        longest = max(longest, time.monotonic() - begin)
        time.sleep(0.01)
    return longest


def test_two_at_once_are_one_after_the_other(filled: LegacyConnection, empty_postgres_url: str) -> None:
    with in_background(empty_postgres_url) as one, in_background(empty_postgres_url) as other:
        pass
    assert bool(one.done) != bool(other.done)
    assert error_codes(empty_postgres_url) == []
    assert values(filled, "SELECT count(*) FROM conversation_events") == [ENDED]

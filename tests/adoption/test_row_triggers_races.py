"""Several sessions write conversations of one pair at the same time: each gets its way, and one stays open."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg
import pytest

from lapse.adoption.names import Names
from tests.adoption.inserting import AGENT, ANA, DUPLICATE, events, found, insert
from tests.adoption.installed_functions import Connection, install, run
from tests.adoption.legacy_table import GUARDED, connect
from tests.support.concurrency import at_once
from tests.support.waiting import until

OPEN = "('pending', 'progress', 'idle_timeout')"
STRESS_SECONDS = 1.0


@pytest.fixture
def sessions(empty_postgres_url: str) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connect(empty_postgres_url)) for _ in range(4)]


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def lapse_opens(connection: Connection, names: Names, customer: str = ANA) -> Any:
    """Open a conversation, or note activity on the open one, as lapse does."""
    key = names.column("session_key")
    [(conv_id,)] = connection.execute(
        f"""INSERT INTO conversations (owner_id, from_number, to_number, channel, status, {key})
        VALUES (1, '{AGENT}', '{customer}', 'whatsapp', 'progress', lapse_session_key('{AGENT}', '{customer}', NULL))
        ON CONFLICT (owner_id, coalesce(lower(btrim(channel)), 'whatsapp'::text), {key}) WHERE status IN {OPEN}
        DO UPDATE SET updated_at = excluded.updated_at RETURNING conv_id""".encode()
    )
    return conv_id


def waits(observer: Connection, waiting: Connection, call: Future[Any]) -> None:
    """Wait until a session's call waits for another one's lock."""

    def is_waiting() -> bool:
        assert not call.done(), call.result()
        return bool(
            observer.execute(
                "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", [waiting.info.backend_pid]
            ).fetchone()
        )

    until(is_waiting)


def test_of_two_inserts_at_once_the_later_one_stays_open(
    sessions: list[Connection], beside: ThreadPoolExecutor
) -> None:
    observer, one, other, _ = sessions
    install(observer)
    with one.transaction():
        first = insert(one)
        call = beside.submit(insert, other)
        waits(observer, other, call)
    second = call.result(20)
    assert found(observer, "conv_id, status, version") == [(first, "expired", 1), (second, "pending", 0)]
    assert events(observer) == [(first, "pending", *DUPLICATE)]


def test_an_insert_that_is_taken_back_lets_the_other_one_in(
    sessions: list[Connection], beside: ThreadPoolExecutor
) -> None:
    observer, one, other, _ = sessions
    install(observer)
    with one.transaction(force_rollback=True):
        insert(one)
        call = beside.submit(insert, other)
        waits(observer, other, call)
    second = call.result(20)
    assert found(observer, "conv_id, status") == [(second, "pending")]
    assert events(observer) == []


@pytest.mark.parametrize("is_lapse_first", [True, False], ids=["lapse first", "application first"])
def test_lapse_and_the_application_open_one_pair_at_once_without_an_error(
    sessions: list[Connection], beside: ThreadPoolExecutor, is_lapse_first: bool
) -> None:
    observer, one, other, _ = sessions
    names = install(observer)
    calls: list[Callable[[Connection], Any]] = [lambda session: lapse_opens(session, names), insert]
    first, second = calls if is_lapse_first else reversed(calls)
    with one.transaction():
        opened = first(one)
        call = beside.submit(second, other)
        waits(observer, other, call)
    later = call.result(20)
    if is_lapse_first:
        assert found(observer, "conv_id, status") == [(opened, "expired"), (later, "pending")]
    else:
        assert found(observer, "conv_id, status") == [(opened, "pending")]
        assert later == opened


@pytest.mark.parametrize("is_lapse", [True, False], ids=["lapse", "application"])
def test_who_ends_a_conversation_and_opens_the_next_is_in_nobodys_way(
    sessions: list[Connection], beside: ThreadPoolExecutor, is_lapse: bool
) -> None:
    observer, one, other, _ = sessions
    names = install(observer)
    insert(observer)
    with one.transaction():
        run(one, "UPDATE conversations SET status = 'user_closed'")
        call = beside.submit(insert, other)
        waits(observer, other, call)
        if is_lapse:
            lapse_opens(one, names)
        else:
            insert(one)
    last = call.result(20)
    assert sorted(found(observer, "status")) == ["expired", "pending", "user_closed"]
    assert found(observer, "conv_id", "WHERE status = 'pending'") == [last]


def test_an_insert_waits_no_longer_than_the_application_allows(sessions: list[Connection]) -> None:
    observer, one, other, _ = sessions
    install(observer)
    run(other, "SET lock_timeout = '50ms'")
    for statement in ("INSERT INTO conversations (owner_id, from_number, to_number) VALUES (1, 'a', 'b')", "SELECT"):
        with one.transaction():
            run(one, statement)  # the pair's lock, then a lock of its row
            run(one, "SELECT FROM conversations FOR UPDATE")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                insert(other, "b", from_number="a")
    assert found(observer, "status") == ["pending"]


def test_a_refused_insert_holds_what_refused_it_for_its_transaction(
    sessions: list[Connection],
) -> None:
    observer, one, other, _ = sessions
    install(observer, GUARDED)
    insert(observer)
    run(other, "SET lock_timeout = '50ms'")
    with one.transaction():
        run(
            one,
            f"""INSERT INTO conversations (owner_id, from_number, to_number) VALUES (1, '{AGENT}', '{ANA}')
            ON CONFLICT DO NOTHING""",
        )
        with pytest.raises(psycopg.errors.LockNotAvailable):
            run(other, "UPDATE conversations SET status = 'user_closed'")
    run(other, "UPDATE conversations SET status = 'user_closed'")
    insert(other)
    assert found(observer, "status") == ["user_closed", "pending"]


def test_an_insert_beside_the_end_of_what_refused_it_is_let_in(
    sessions: list[Connection], beside: ThreadPoolExecutor
) -> None:
    observer, one, other, _ = sessions
    install(observer, GUARDED)
    first = insert(observer)
    with one.transaction():
        run(one, "UPDATE conversations SET status = 'idle_timeout'")  # which the application's own index allows
        call = beside.submit(insert, other)
        waits(observer, other, call)
    second = call.result(20)
    assert found(observer, "conv_id, status") == [(first, "expired"), (second, "pending")]


def test_under_load_nobody_gets_an_error_and_one_of_a_pair_is_open(
    sessions: list[Connection], empty_postgres_url: str
) -> None:
    names = install(sessions[0])

    def insert_one(session: Connection, customer: str) -> None:
        insert(session, customer)

    def end_and_insert(session: Connection, customer: str) -> None:
        run(session, f"UPDATE conversations SET status = 'failed' WHERE to_number = '{customer}' AND status IN {OPEN}")
        insert(session, customer)

    def touch(session: Connection, customer: str) -> None:
        run(
            session,
            f"""UPDATE conversations SET status = 'progress', updated_at = now() WHERE status IN {OPEN}
            AND conv_id = (SELECT max(conv_id) FROM conversations WHERE to_number = '{customer}')""",
        )

    def open_again(session: Connection, customer: str) -> None:
        run(
            session,
            f"""UPDATE conversations SET status = 'progress'
            WHERE conv_id = (SELECT max(conv_id) - 2 FROM conversations WHERE to_number = '{customer}')""",
        )

    def pause(session: Connection, customer: str) -> None:
        run(
            session,
            f"""UPDATE conversations SET status = 'idle_timeout', version = version + 1 WHERE conv_id IN (
                SELECT conv_id FROM conversations WHERE to_number = '{customer}' AND status IN ('pending', 'progress')
                FOR NO KEY UPDATE SKIP LOCKED)""",
        )

    def lapse_ends_and_opens(session: Connection, customer: str) -> None:
        run(
            session,
            f"SELECT FROM conversations WHERE to_number = '{customer}' AND status IN {OPEN} FOR UPDATE",
            f"""UPDATE conversations SET status = 'expired', version = version + 1
            WHERE to_number = '{customer}' AND status IN ('pending', 'progress')""",
        )
        lapse_opens(session, names, customer)

    kinds: Sequence[Callable[[Connection, str], None]] = (
        insert_one,
        end_and_insert,
        touch,
        open_again,
        pause,
        lapse_ends_and_opens,
        lambda session, customer: lapse_opens(session, names, customer),
    )

    def write(session: Connection, seed: int) -> int:
        drawn, until_then = random.Random(seed), time.monotonic() + STRESS_SECONDS
        number = 0
        while time.monotonic() < until_then:
            with session.transaction():
                drawn.choice(kinds)(session, drawn.choice((ANA, f"whatsapp:{ANA}", "+12")))
                time.sleep(drawn.choice((0, 0.002)))
            number += 1
        return number

    done = at_once([partial(write, session, seed) for seed, session in enumerate(sessions)])
    assert min(done) > 10
    with connect(empty_postgres_url) as observer:
        counted = observer.execute(
            f"SELECT session_key, count(*) FILTER (WHERE status IN {OPEN}) FROM conversations GROUP BY 1".encode()
        ).fetchall()
        assert [number for _, number in counted] == [1, 1]

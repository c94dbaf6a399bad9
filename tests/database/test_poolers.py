"""Everything works through PgBouncer in transaction mode, and leaves nothing behind in the sessions of its pool."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from lapse import ConversationService, Database
from lapse.store.operations.schema import head_version
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.closed_conversations import insert_closed
from tests.support.commands import run_lapse, running_lapse
from tests.support.concurrency import services
from tests.support.invariants import check_invariants
from tests.support.pgbouncer import POOL_SIZE, require_pgbouncer, running_pgbouncer, through_pooler
from tests.support.pooled_sessions import look_at_pooled_sessions
from tests.support.sql import count, run_sql

CLIENTS, MESSAGES_EACH, PAIRS = 6, 100, 40
IDLE, EXPIRED, CLOSED = 2_000, 2_000, 1_000


@pytest.fixture
def pooled_url(empty_postgres_url: str) -> Iterator[str]:
    """Return the URL of an empty database behind a pooler of its own."""
    require_pgbouncer()
    with running_pgbouncer(empty_postgres_url) as pooler:
        yield through_pooler(pooler, empty_postgres_url)


@pytest.fixture
def observer(empty_postgres_url: str) -> Iterator[Database]:
    """Return the same database without the pooler."""
    with closing(Database(empty_postgres_url)) as database:
        yield database


def converse(service: ConversationService, client: int) -> None:
    """Send messages of both sides, about pairs that the other clients write to as well, and end some of them."""
    for number in range(MESSAGES_EACH):
        pair = customer((client + number) % PAIRS)
        opened = service.record_message(1, pair, BUSINESS)
        service.record_message(1, BUSINESS, pair, sender="agent")
        if number % 20 == 19:
            closed = service.create_conversation(2 + client, customer(number), BUSINESS)
            service.extend_expiration(closed.conv_id, 5)
            service.close_conversation(closed.conv_id, "user_closed")
            service.get_conversation_by_id(opened.conv_id)
            service.get_conversation_history(1, pair, BUSINESS)


def wait_until_nothing_is_due(database: Database) -> None:
    deadline = time.monotonic() + 60
    due = "SELECT count(*) FROM conversations WHERE status IN ('pending', 'progress') AND channel = 'sms'"
    while run_sql(database, due) != [(0,)]:
        assert time.monotonic() < deadline, "the workers do not end the backlog"
        time.sleep(0.1)


def test_all_that_lapse_does_leaves_a_poolers_sessions_as_they_were(
    pooled_url: str, empty_postgres_url: str, observer: Database
) -> None:
    before = look_at_pooled_sessions(pooled_url, empty_postgres_url)
    assert run_lapse("migrate", "--database-url", pooled_url).stdout.endswith(f"version {head_version()}\n")
    insert_conversations(observer, range(1_000, 1_000 + IDLE), silent_for=timedelta(minutes=31))
    insert_conversations(observer, range(5_000, 5_000 + EXPIRED), expires_in=-timedelta(minutes=1))
    insert_closed(observer, range(9_000, 9_000 + CLOSED), ended_ago=timedelta(days=40))
    status = run_lapse("status", "--json", "--database-url", pooled_url)
    assert json.loads(status.stdout)["due"] == {"idle_conversations": IDLE, "expired_conversations": EXPIRED}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(running_lapse("worker", "--batch-size", "50", "--database-url", pooled_url))
            for _ in range(2)
        ]
        for worker in workers:
            worker.wait_for("worker started")
        several = stack.enter_context(services(pooled_url, CLIENTS))
        with ThreadPoolExecutor(CLIENTS) as threads:
            talks = [threads.submit(converse, service, client) for client, service in enumerate(several)]
            purge = run_lapse("purge", "--closed-before", "30", "--batch-size", "50", "--database-url", pooled_url)
            for talk in talks:
                talk.result(60)
        assert purge.stdout.startswith("deleted 1,000 conversations")
        wait_until_nothing_is_due(observer)
        for worker in workers:
            worker.stop(signal.SIGTERM)
            assert (worker.process.returncode, worker.stderr) == (0, "")
            assert not [line for line in worker.log if line["level"] in ("error", "warning")]
    ended = [line["count"] for worker in workers for line in worker.log if line["event"] == "task processed"]
    assert sum(ended) == IDLE + EXPIRED
    after = look_at_pooled_sessions(pooled_url, empty_postgres_url)
    assert set(after.by_pid) == set(before.by_pid), "these are the sessions in which all of it was done"
    assert after.left_since(before) == {}
    assert count(observer, "conversations") == IDLE + EXPIRED + PAIRS + CLIENTS * MESSAGES_EACH // 20
    check_invariants(observer)


LEFT_BEHIND = {
    "prepared statements": "PREPARE mine AS SELECT 1",
    "channels": "LISTEN mine",
    "advisory locks": "SELECT pg_advisory_lock(7)",
    "temporary tables": "CREATE TEMPORARY TABLE mine (id integer)",
    "cursors": "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
    "role": "SET ROLE pg_monitor",
    "settings": "SET statement_timeout = '7s'",
    "open transactions": "BEGIN",
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_what_a_session_leaves_behind_is_found(pooled_url: str, empty_postgres_url: str, what: str) -> None:
    before = look_at_pooled_sessions(pooled_url, empty_postgres_url)
    with closing(connect(pooled_url)) as client:
        client.execute(LEFT_BEHIND[what].encode())
        left = look_at_pooled_sessions(pooled_url, empty_postgres_url).left_since(before)
    assert list(left) == [what]


def test_what_the_driver_prepares_is_found(pooled_url: str, empty_postgres_url: str) -> None:
    """As psycopg does by itself, unless it is told not to."""
    before = look_at_pooled_sessions(pooled_url, empty_postgres_url)
    with closing(connect(pooled_url)) as client:
        client.execute("SELECT %s::int", [1], prepare=True)
    assert list(look_at_pooled_sessions(pooled_url, empty_postgres_url).left_since(before)) == ["prepared statements"]


def connect(url: str) -> psycopg.Connection[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
@pytest.mark.parametrize("is_pooled", [False, True], ids=["direct", "pooled"])
def test_every_spelling_of_the_url_works(
    request: pytest.FixtureRequest, empty_postgres_url: str, scheme: str, is_pooled: bool
) -> None:
    base = request.getfixturevalue("pooled_url") if is_pooled else empty_postgres_url
    url = scheme + "://" + base.partition("://")[2]
    assert run_lapse("migrate", env={"DATABASE_URL": url}).returncode == 0
    with closing(ConversationService(url)) as service:
        assert service.record_message(1, customer(1), BUSINESS).status == "pending"
    assert run_lapse("worker", "--once", "--database-url", url).returncode == 0


def test_more_clients_than_connections_wait_for_their_turn(pooled_url: str, observer: Database) -> None:
    assert run_lapse("migrate", "--database-url", pooled_url).returncode == 0
    clients = 4 * POOL_SIZE
    with services(pooled_url, clients) as several, ThreadPoolExecutor(clients) as threads:
        messages = [threads.submit(service.record_message, 1, customer(1), BUSINESS) for service in several]
        ids = {message.result(60).conv_id for message in messages}
        backends = run_sql(
            observer,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
    assert len(ids) == 1
    assert backends[0][0] <= POOL_SIZE
    check_invariants(observer)

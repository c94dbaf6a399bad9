"""Transactions that are stricter by a role's or a database's default: nobody notices; and sweeps that lose sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import make_url

from lapse import ConversationService, Database
from lapse.messages import OpeningSender
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.chaos.server_settings import given_to
from tests.conftest import SERVERS, NewDatabase
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.invariants import check_invariants
from tests.support.postgres import Server
from tests.support.sql import count, run_sql
from tests.support.workers import counts

THREADS = 24
MESSAGES = scaled(small=8, full=200)
DUE = scaled(small=400, full=10_000)
IDLE = timedelta(hours=1)
SWEEPERS = 4
BATCH = 20


@pytest.fixture
def server(pytestconfig: pytest.Config) -> Server:
    return next(iter(pytestconfig.stash[SERVERS].by_name.values()))


@pytest.fixture
def url(server: Server, new_database: NewDatabase) -> str:
    return new_database(server.name)


def in_threads(number: int, work: Callable[[int], object]) -> None:
    """Let so many threads begin at once, and raise the first error that one of them met."""
    begin = threading.Barrier(number)

    def run(place: int) -> None:
        begin.wait()
        work(place)

    with ThreadPoolExecutor(number) as threads:
        for done in [threads.submit(run, place) for place in range(number)]:
            done.result()


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
@pytest.mark.parametrize("is_roles", [True, False], ids=["role", "database"])
def test_threads_on_one_pair_meet_no_error_in_any_default_isolation(
    server: Server, url: str, isolation: str, outcome_of_all: Outcome, *, is_roles: bool
) -> None:
    role = make_url(url).username if is_roles else None
    with (
        given_to(server, url, {"default_transaction_isolation": isolation}, role=role),
        closing(ConversationService(url)) as service,
    ):
        ids = set()

        def talk(place: int) -> None:
            for number in range(MESSAGES):
                sender: OpeningSender = "agent" if (place + number) % 3 == 0 else "user"
                ids.add(service.record_message(1, customer(1), BUSINESS, sender=sender).conv_id)
                service.get_or_create_conversation(1, BUSINESS, customer(1))
                if number % 4 == 1:
                    service.extend_expiration(next(iter(ids)), 1)

        in_threads(THREADS, talk)
        assert len(ids) == 1
        assert counts(service.database) == {"progress": 1}
        check_invariants(service.database)
        outcome_of_all.count(service.database, messages=THREADS * MESSAGES)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_threads_that_close_and_open_one_pair_leave_at_most_one_open(
    server: Server, url: str, isolation: str, outcome_of_all: Outcome
) -> None:
    with (
        given_to(server, url, {"default_transaction_isolation": isolation}),
        closing(ConversationService(url)) as service,
    ):
        closed = []

        def talk(place: int) -> None:
            for _ in range(MESSAGES // 4):
                found = service.record_message(1, customer(1), BUSINESS)
                if place == 0:  # the only one, so that none is closed twice
                    closed.append(service.close_conversation(found.conv_id, "agent_closed").conv_id)
                    service.record_message(1, customer(1), BUSINESS)

        in_threads(THREADS, talk)
        assert len(set(closed)) == len(closed) == MESSAGES // 4
        assert count(service.database, "conversations") == len(closed) + 1
        check_invariants(service.database)
        outcome_of_all.count(service.database, messages=THREADS * (MESSAGES // 4), closes=len(closed))


@contextmanager
def backends_ended_again_and_again(server: Server, url: str) -> Iterator[list[int]]:
    """End the sessions of lapse in this database until the test is done; hands out how many, each time."""
    ended: list[int] = []
    is_over = threading.Event()
    name = make_url(url).database
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE application_name = 'lapse' AND datname = '{name}' AND backend_type = 'client backend'"
    )

    def strike() -> None:
        while not is_over.is_set():
            ended.append(len(server.execute(end)))
            is_over.wait(0.05)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield ended
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
@pytest.mark.parametrize("kind", ["idle", "expired"])
def test_sweeps_whose_sessions_are_ended_end_each_conversation_once(
    server: Server, url: str, kind: str, isolation: str, outcome_of_all: Outcome
) -> None:
    with closing(Database(url)) as database:
        if kind == "idle":
            insert_conversations(database, range(DUE), silent_for=2 * IDLE)
        else:
            insert_conversations(database, range(DUE), expires_in=-IDLE)
        with (
            given_to(server, url, {"default_transaction_isolation": isolation}),
            closing(ConversationService(url)) as service,
        ):
            process = service.process_idle_conversations if kind == "idle" else service.process_expired_conversations

            def sweep(_place: int) -> None:
                while process(limit=BATCH):
                    pass

            with backends_ended_again_and_again(server, url) as ended:
                in_threads(SWEEPERS, sweep)
        assert sum(ended) > 0
        status = "idle_timeout" if kind == "idle" else "expired"
        while process(limit=BATCH):  # what somebody whose session was ended had locked when the others looked
            pass
        assert counts(database) == {status: DUE}
        [row] = run_sql(database, "SELECT count(*) AS events, count(DISTINCT conv_id) AS ids FROM conversation_events")
        assert (row.events, row.ids) == (DUE, DUE)
        check_invariants(database)
        outcome_of_all.count(database, swept=DUE, sessions_ended=sum(ended))

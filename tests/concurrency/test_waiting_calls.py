"""Calls that wait, for a row, a connection or a server: they are tried again, and they end in time."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from lapse import BackgroundWorker, CallTimeoutError, Conversation, ConversationService, Database, load_settings
from lapse.store.database import MAX_CONNECTIONS
from lapse.store.limits import limited
from tests.chaos.conftest import migrated, own_server, wait_for_server
from tests.conftest import NewDatabase
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.invariants import check_invariants
from tests.support.sql import run_sql
from tests.support.waiting import until

LIMIT_SECONDS = 3
OWN = "FROM pg_stat_activity WHERE application_name = 'lapse' AND datname = current_database()"
WAITERS = f"SELECT pid {OWN} AND wait_event_type = 'Lock'"

Call = Callable[[ConversationService, Conversation], Conversation]
CALLS: dict[str, Call] = {
    "a message that changes no status": lambda service, held: service.record_message(1, customer(1), BUSINESS),
    "a message that changes the status": lambda service, held: service.record_message(
        1, BUSINESS, customer(1), sender="agent"
    ),
    "a close": lambda service, held: service.close_conversation(held.conv_id, "agent_closed"),
    "an extension": lambda service, held: service.extend_expiration(held.conv_id, 5),
}


def plain(url: str) -> str:
    """Return the URL for psycopg itself."""
    return url.replace("+psycopg", "")


def set_for_all(database: Database, setting: str, value: str) -> None:
    """Give a setting to every later session."""
    run_sql(database, f"ALTER DATABASE {database.engine.url.database} SET {setting} = '{value}'")


def limited_service(database: str | Database, seconds: float = LIMIT_SECONDS) -> ConversationService:
    return ConversationService(database, settings=load_settings(call_timeout_seconds=seconds))


@contextmanager
def held_row(url: str, conversation: Conversation) -> Iterator[psycopg.Connection[Any]]:
    """Keep a conversation's row locked, as an application's own transaction would."""
    with psycopg.connect(plain(url)) as other:
        other.execute("SELECT FROM conversations WHERE conv_id = %s FOR UPDATE", [conversation.conv_id])
        yield other


def wait_for_waiters(url: str, number: int = 1) -> list[int]:
    """Return the sessions of lapse that wait for a lock, once there are so many."""
    deadline = time.monotonic() + 10
    with psycopg.connect(plain(url), autocommit=True) as look:
        while len(found := look.execute(WAITERS.encode()).fetchall()) < number:
            assert time.monotonic() < deadline, f"{len(found)} wait for a lock"
            time.sleep(0.01)
    return [pid for (pid,) in found]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_whose_backend_is_ended_while_it_waits_is_tried_again(postgres_url: str, call: Call) -> None:
    with closing(ConversationService(postgres_url)) as service, ThreadPoolExecutor() as threads:
        conversation = service.record_message(1, customer(1), BUSINESS)
        with held_row(postgres_url, conversation) as other:
            waiting = threads.submit(call, service, conversation)
            (pid,) = wait_for_waiters(postgres_url)
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
            # The one that was ended may be on the list for a moment still.
            until(lambda: wait_for_waiters(postgres_url) != [pid])
        assert waiting.result().conv_id == conversation.conv_id
        check_invariants(service.database)


@pytest.mark.parametrize("way", ["terminate", "cancel by lock_timeout"])
def test_an_insert_that_waits_for_another_one_is_tried_again(postgres_url: str, way: str) -> None:
    with (
        closing(ConversationService(postgres_url)) as service,
        ThreadPoolExecutor() as threads,
        psycopg.connect(plain(postgres_url)) as other,
    ):
        if way != "terminate":
            run_sql(
                service.database, f"ALTER DATABASE {service.database.engine.url.database} SET lock_timeout = '100ms'"
            )
        elsewhere = service.record_message(1, customer(2), BUSINESS)
        # Not committed: whoever inserts the same pair waits while it enters it into the index.
        other.execute(
            "INSERT INTO conversations SELECT (c).* FROM (SELECT jsonb_populate_record(c, jsonb_build_object("
            "'conv_id', gen_random_uuid(), 'session_key', %s::text)) AS c FROM conversations AS c) AS changed",
            ["::".join(sorted([BUSINESS, customer(1)]))],
        )
        waiting = threads.submit(service.record_message, 1, customer(1), BUSINESS)
        (pid, *_) = wait_for_waiters(postgres_url)
        if way == "terminate":
            with psycopg.connect(plain(postgres_url), autocommit=True) as third:
                third.execute("SELECT pg_terminate_backend(%s)", [pid])
        time.sleep(0.3)
        other.rollback()
        assert waiting.result().conv_id != elsewhere.conv_id
        check_invariants(service.database)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_lock_timeout_of_the_role_is_waited_for(postgres_url: str, call: Call) -> None:
    with closing(ConversationService(postgres_url)) as service, ThreadPoolExecutor() as threads:
        set_for_all(service.database, "lock_timeout", "50ms")
        conversation = service.record_message(1, customer(1), BUSINESS)
        service.close()  # later sessions have it
        with held_row(postgres_url, conversation):
            waiting = threads.submit(call, service, conversation)
            wait_for_waiters(postgres_url)
            time.sleep(0.3)
            assert not waiting.done()
        assert waiting.result().conv_id == conversation.conv_id


def test_a_fast_restart_while_calls_wait_for_a_row_reaches_no_caller() -> None:
    with own_server() as process:
        url = migrated(process)
        with closing(ConversationService(url)) as service, ThreadPoolExecutor() as threads:
            conversation = service.record_message(1, customer(1), BUSINESS)
            with closing(psycopg.connect(plain(url))) as other:
                other.execute("SELECT FROM conversations FOR UPDATE")
                waiting: list[Future[Conversation]] = [
                    threads.submit(service.record_message, 1, customer(1), BUSINESS) for _ in range(6)
                ]
                wait_for_waiters(url, 6)
                process.stop("fast")
                process.start()
                wait_for_server(process, 10)
            assert {call.result().conv_id for call in waiting} == {conversation.conv_id}
            check_invariants(service.database)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_behind_a_locked_row_ends_in_time_and_says_why(postgres_url: str, call: Call) -> None:
    with closing(limited_service(postgres_url)) as service:
        conversation = service.record_message(1, customer(1), BUSINESS)
        with held_row(postgres_url, conversation) as other:
            began = time.monotonic()
            with pytest.raises(CallTimeoutError, match=r"LAPSE_CALL_TIMEOUT, 3 seconds.*keeps the row locked"):
                call(service, conversation)
            assert time.monotonic() - began < LIMIT_SECONDS + 0.5
            assert other.execute(WAITERS.encode()).fetchall() == [], "nothing waits for a caller that has gone"
        assert service.get_conversation_by_id(conversation.conv_id) == conversation
        assert call(service, conversation).conv_id == conversation.conv_id


def test_a_call_to_a_server_that_hangs_ends_in_time_and_says_so() -> None:
    with own_server() as process:
        url = migrated(process)
        with closing(limited_service(url)) as service:
            service.record_message(1, customer(1), BUSINESS)
            with psycopg.connect(plain(url), autocommit=True) as other:
                pids = other.execute(f"SELECT pid {OWN}".encode()).fetchall()
            for (pid,) in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                with pytest.raises(CallTimeoutError, match="the server is silent"):
                    service.record_message(1, customer(1), BUSINESS)
                assert time.monotonic() - began < LIMIT_SECONDS + 0.5
            finally:
                for (pid,) in pids:
                    os.kill(pid, signal.SIGCONT)
            assert service.record_message(1, customer(1), BUSINESS).version == 0


def test_a_commit_that_no_standby_has_confirmed_is_not_answered() -> None:
    with own_server() as process:
        url = migrated(process)
        with closing(limited_service(url)) as service:
            service.record_message(1, customer(1), BUSINESS)
            with psycopg.connect(plain(process.admin_url), autocommit=True) as other:
                other.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
                other.execute("SELECT pg_reload_conf()")
            with pytest.raises(CallTimeoutError, match="a standby had not confirmed it"):
                # Until the server has read its settings, it waits for nobody.
                until(lambda: service.record_message(1, customer(1), BUSINESS) is None)


def test_a_name_with_many_silent_servers_takes_no_longer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        servers = ",".join([f"127.0.0.1:{port}"] * 4)
        with closing(limited_service(f"postgresql://lapse@/lapse?{hosts_of(servers)}")) as service:
            began = time.monotonic()
            with pytest.raises(CallTimeoutError, match="no connection could be made"):
                service.record_message(1, customer(1), BUSINESS)
            assert time.monotonic() - began < LIMIT_SECONDS + 0.5


def hosts_of(servers: str) -> str:
    return "&".join(f"host={server}" for server in servers.split(","))


class Trickling:
    """A call whose answer comes bit by bit, for six seconds."""

    call_timeout_seconds = LIMIT_SECONDS

    def __init__(self, database: Database) -> None:
        self._database = database

    @limited
    def ask(self) -> None:
        query = "SELECT repeat('x', 8000), pg_sleep(0.005) FROM generate_series(1, 1200)"
        self._database.autocommit(lambda connection: connection.driver.run(query, {}))


def test_an_answer_that_trickles_in_ends_in_time(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        began = time.monotonic()
        with pytest.raises(CallTimeoutError, match="took too long"):
            Trickling(database).ask()
        assert time.monotonic() - began < LIMIT_SECONDS + 0.5


def test_a_call_that_finds_all_connections_in_use_ends_in_time_and_says_so(postgres_url: str) -> None:
    with (
        closing(Database(postgres_url)) as database,
        closing(limited_service(database, 60)) as patient,
        closing(limited_service(database)) as service,
        ThreadPoolExecutor(MAX_CONNECTIONS) as threads,
    ):
        conversation = service.record_message(1, customer(1), BUSINESS)
        with held_row(postgres_url, conversation):
            calls = [threads.submit(patient.record_message, 1, customer(1), BUSINESS) for _ in range(MAX_CONNECTIONS)]
            wait_for_waiters(postgres_url, MAX_CONNECTIONS)
            began = time.monotonic()
            with pytest.raises(CallTimeoutError, match=f"all {MAX_CONNECTIONS} connections of this process"):
                service.record_message(1, customer(2), BUSINESS)
            assert time.monotonic() - began < LIMIT_SECONDS + 0.5
        assert {call.result().conv_id for call in calls} == {conversation.conv_id}


def test_a_call_on_a_locked_sqlite_file_ends_in_time_and_says_so(new_database: NewDatabase) -> None:
    url = new_database("sqlite")
    with closing(limited_service(url)) as service, closing(other_writer(url)) as other:
        service.record_message(1, customer(1), BUSINESS)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(CallTimeoutError, match="another process keeps the file locked"):
            service.record_message(1, customer(1), BUSINESS)
        assert time.monotonic() - began < LIMIT_SECONDS + 0.5
        assert len(service.get_active_conversations(1)) == 1, "what only reads waits for no writer"


def other_writer(url: str) -> sqlite3.Connection:
    return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)


def test_the_limit_is_shorter_than_the_patience_of_a_providers_webhook() -> None:
    assert load_settings().call_timeout_seconds < 15, "Twilio's"


def test_a_worker_that_has_stopped_ends_no_wait_of_the_applications(new_database: NewDatabase) -> None:
    url = new_database("sqlite")
    with closing(ConversationService(url)) as service, closing(other_writer(url)) as other:
        worker = BackgroundWorker(service=service)
        worker.stop()
        service.record_message(1, customer(1), BUSINESS)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.7, other.close).start()
        assert service.record_message(1, customer(1), BUSINESS).version == 0


def test_sweeps_of_a_service_whose_backends_are_ended_are_tried_again(postgres_url: str) -> None:
    with closing(ConversationService(postgres_url)) as service, psycopg.connect(plain(postgres_url)) as other:
        insert_conversations(service.database, range(10), silent_for=timedelta(hours=1))
        service.find_idle_conversations()
        for sweep in (service.process_idle_conversations, service.process_expired_conversations):
            ended = other.execute(f"SELECT count(pg_terminate_backend(pid)) {OWN}".encode()).fetchall()
            assert ended[0][0] > 0
            sweep()
        assert service.find_idle_conversations() == []

"""Connections to the server: a worker's number does not grow while it runs, and there are none after it."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from datetime import timedelta

import pytest

from lapse import BackgroundWorker, ConversationService, Database
from lapse.store.connection import Connection
from tests.support.backlog import insert_conversations
from tests.support.sql import run_sql
from tests.support.workers import in_background

OBSERVER, CYCLES = "observer", 30


def connections(observer: Database) -> int:
    (row,) = run_sql(
        observer,
        "SELECT count(*) AS number FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'lapse'",
    )
    return int(row.number)


def test_a_worker_keeps_one_connection_and_closes_it_at_its_end(postgres_url: str) -> None:
    with closing(Database(f"{postgres_url}?application_name={OBSERVER}")) as observer:
        worker = BackgroundWorker(0.01, min_wait_seconds=0, service=ConversationService(postgres_url))
        seen, deadline = set[int](), time.monotonic() + 30
        with in_background(worker):
            for number in range(CYCLES):
                insert_conversations(observer, range(number, number + 1), expires_in=-timedelta(minutes=1))
                cycle = worker.cycle_count
                while worker.cycle_count < cycle + 2:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                seen.add(connections(observer))
        assert worker.metrics["expired_conversations"].total_items_processed == CYCLES
        assert seen == {1}
        while connections(observer):
            assert time.monotonic() < deadline, "the connection is still there"
            time.sleep(0.05)


def test_a_server_that_owes_an_answer_is_asked_whether_it_is_still_there(postgres_url: str) -> None:
    def options(connection: Connection) -> list[int]:
        with socket.socket(fileno=os.dup(connection.driver.fileno())) as connected:
            asked = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
            return [connected.getsockopt(socket.IPPROTO_TCP, option) for option in asked]

    with closing(Database(postgres_url)) as database:
        assert database.autocommit(options) == [5, 5, 15_000]


def test_types_that_only_this_database_knows_are_read_as_text(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        run_sql(database, "CREATE TYPE mood AS ENUM ('so-so')")
        run_sql(database, "CREATE DOMAIN handle AS text")
        query = "SELECT 'so-so'::mood, 'joão'::handle, 'x'::varchar, ARRAY[0.5::float8], NULL::mood"
        rows = database.autocommit(lambda connection: connection.driver.run(query, {}))
    assert rows == [("so-so", "joão", "x", [0.5], None)]


@pytest.mark.parametrize("means", ["autocommit", "transaction", "schema_transaction", "inspect"])
def test_work_that_raises_stop_iteration_is_no_success(database: Database, means: str) -> None:
    def work(_connection: object) -> None:
        next(iter(()))

    with pytest.raises(RuntimeError):
        getattr(database, means)(work)


def test_what_comes_during_a_rollback_is_raised(database: Database) -> None:
    class TimeLimitError(Exception):
        pass

    def work(connection: Connection) -> None:
        run = connection.driver.run

        def interrupted(sql: str, values: dict[str, object]) -> object:
            if sql == "ROLLBACK":
                connection.driver.run = run
                raise TimeLimitError
            return run(sql, values)

        connection.driver.run = interrupted
        raise ValueError

    with pytest.raises(TimeLimitError):
        database.transaction(work)

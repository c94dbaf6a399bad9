"""Calls that end what is due go past conversations that the database refuses to end (the worker: tests/worker)."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from lapse import ConversationService, Database
from lapse.errors import ConversationRefusedError, StatementTimeoutError
from lapse.store.operations import sweeps
from tests.conftest import ASYNCIO, THREADS, OpenService
from tests.support.backlog import insert_conversations
from tests.support.invariants import check_invariants
from tests.support.sql import run_sql, transaction

MINUTE = timedelta(minutes=1)
REFUSE = {
    "sqlite": """
        CREATE TRIGGER poison BEFORE UPDATE ON conversations WHEN old.owner_id = 2 AND new.status <> old.status
        BEGIN SELECT RAISE(ABORT, 'no'); END""",
    "postgresql": """
        CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
        CREATE TRIGGER poison BEFORE UPDATE ON conversations FOR EACH ROW
            WHEN (old.owner_id = 2 AND new.status <> old.status) EXECUTE FUNCTION poison()""",
}
LEAVE = """
    CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER poison BEFORE UPDATE ON conversations FOR EACH ROW
        WHEN (old.owner_id = 2 AND new.status <> old.status) EXECUTE FUNCTION poison()"""


@pytest.fixture(params=[THREADS, ASYNCIO])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(database_url: str, open_service: OpenService) -> ConversationService:
    return open_service(database_url)


@pytest.fixture
def on_postgres(postgres_url: str, open_service: OpenService) -> ConversationService:
    return open_service(postgres_url)


def fill(database: Database, task: str, *, refused: int, good: int) -> None:
    """Insert conversations that are due, those of owner 2 (which a trigger refuses) first and last."""
    numbers, step = range(refused + good + refused), timedelta(milliseconds=1)
    if task == "expired":
        insert_conversations(database, numbers, step=step, expires_in=-MINUTE)
    else:
        insert_conversations(database, numbers, step=step, silent_for=31 * MINUTE)
    order = {"expired": "expires_at", "idle": "idle_check_at"}[task]
    for which, limit in (("ASC", refused), ("DESC", refused)):
        ids = f"(SELECT conv_id FROM conversations WHERE owner_id <> 2 ORDER BY {order} {which} LIMIT {limit})"
        run_sql(database, f"UPDATE conversations SET owner_id = 2 WHERE conv_id IN {ids}")


def process(service: ConversationService, task: str, limit: int) -> int:
    if task == "expired":
        return service.process_expired_conversations(limit)
    return service.process_idle_conversations(limit=limit)


def ended(database: Database) -> list[int]:
    rows = run_sql(database, "SELECT owner_id FROM conversations WHERE status IN ('expired', 'idle_timeout')")
    return [row.owner_id for row in rows]


@pytest.mark.parametrize("limit", [1, 3, 5, 10, 100])
@pytest.mark.parametrize("task", ["expired", "idle"])
def test_what_is_refused_does_not_stop_the_others(
    database: Database, service: ConversationService, task: str, limit: int
) -> None:
    fill(database, task, refused=20, good=5)
    run_sql(database, REFUSE[database.dialect])
    assert process(service, task, limit) == min(limit, 5)
    assert ended(database) == [1] * min(limit, 5)
    while len(ended(database)) < 5:
        assert process(service, task, limit) > 0
    with pytest.raises(ConversationRefusedError):
        process(service, task, limit)
    assert ended(database) == [1] * 5
    run_sql(database, "DROP TRIGGER poison" + (" ON conversations" if database.dialect == "postgresql" else ""))
    assert process(service, task, 100) == 40
    assert process(service, task, 100) == 0
    check_invariants(database)


@pytest.mark.parametrize("task", ["expired", "idle"])
def test_what_a_trigger_leaves_as_it_was_does_not_stop_the_others(on_postgres: ConversationService, task: str) -> None:
    service, database = on_postgres, on_postgres.database
    fill(database, task, refused=12, good=5)
    run_sql(database, LEAVE)
    assert process(service, task, 10) == 5
    with pytest.raises(ConversationRefusedError, match="left a conversation as it was"):
        process(service, task, 10)


def test_so_many_refused_are_given_up(
    database: Database, service: ConversationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "MAX_REFUSED", 15)
    fill(database, "expired", refused=20, good=5)
    run_sql(database, REFUSE[database.dialect])
    with pytest.raises(ConversationRefusedError):
        service.process_expired_conversations()
    assert ended(database) == []


def test_a_batch_that_takes_too_long_is_done_in_parts(postgres_url: str) -> None:
    with ConversationService(postgres_url) as service:
        database = service.database
        fill(database, "expired", refused=1, good=5)
        name = run_sql(database, "SELECT current_database() AS name")[0].name
        run_sql(
            database,
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_sleep(CASE old.owner_id WHEN 2 THEN 2 ELSE 0.05 END); RETURN new; END'; "
            "CREATE TRIGGER slow BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        run_sql(database, f"ALTER DATABASE \"{name}\" SET statement_timeout = '200ms'")
        service.close()
        assert service.process_expired_conversations() == 5
        with pytest.raises(StatementTimeoutError):
            service.process_expired_conversations()
        assert ended(database) == [1] * 5


def test_rows_that_somebody_else_holds_are_not_waited_for_for_ever(on_postgres: ConversationService) -> None:
    """What can be seen is locked, and what comes after it is refused: there is no more to find out."""
    service, database = on_postgres, on_postgres.database
    fill(database, "expired", refused=3, good=2)
    run_sql(database, "UPDATE conversations SET owner_id = 3 WHERE owner_id = 1")
    run_sql(database, REFUSE[database.dialect])
    first = "SELECT conv_id FROM conversations ORDER BY expires_at LIMIT 2 FOR UPDATE"
    found: list[object] = []

    def call() -> None:
        try:
            found.append(service.process_expired_conversations(limit=2))
        except ConversationRefusedError as error:
            found.append(error)

    with transaction(database) as other:
        other.exec_driver_sql(first)
        calling = threading.Thread(target=call, daemon=True)
        calling.start()
        calling.join(20)
        assert not calling.is_alive()
    assert len(found) == 1
    assert isinstance(found[0], ConversationRefusedError)

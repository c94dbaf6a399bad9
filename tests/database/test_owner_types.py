"""Owners of lapse's own tables are whole numbers, UUIDs or text: chosen once, on either database."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from lapse import BackgroundWorker, ConversationService, Database, InvalidInputError, migrate
from lapse.errors import ConversationNotFoundError, SchemaError
from lapse.models import AnyId, Conversation
from lapse.store.async_database import AsyncDatabase
from lapse.store.operations import conversations
from lapse.store.table_mapping import VERSION_TABLE, IdKind
from tests.support.commands import error_line, run_here
from tests.support.sql import own_tables, run_sql

CUSTOMER, BUSINESS = "+5511999999999", "+14155238886"
FIRST, SECOND = UUID("0193a2b0-0000-7000-8000-00000000000a"), UUID("ffffffff-ffff-4fff-8fff-ffffffffffff")
OWNERS: dict[str, tuple[Any, Any]] = {"bigint": (7, -(2**63)), "uuid": (FIRST, SECOND), "text": ("acme", "Ação & co")}
OTHER: dict[str, str] = {"bigint": "uuid", "uuid": "text", "text": "bigint"}
HOUR = timedelta(hours=1)


@pytest.fixture(params=OWNERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(new_database: Callable[..., str], backend: str, kind: str) -> str:
    """Return the URL of a new database with owners of this kind."""
    url = new_database(backend, migrated=False)
    with closing(Database(url)) as database:
        assert migrate(database, owner_type=kind).before is None
    return url


@pytest.fixture
def service(url: str) -> Iterator[ConversationService]:
    with closing(ConversationService(url)) as service:
        yield service


def make_due(service: ConversationService, column: str, conv_id: AnyId) -> None:
    database = service.database
    hour_ago = (
        "datetime('now', '-1 hour') || '.000000'" if database.dialect == "sqlite" else "now() - interval '1 hour'"
    )
    run_sql(
        database, f"UPDATE conversations SET {column} = {hour_ago}, updated_at = {hour_ago} WHERE conv_id = '{conv_id}'"
    )


def test_conversations_live_and_end(service: ConversationService, kind: str) -> None:
    assert service.database.shape().mapping.kinds["owner_id"] == kind
    one, other = OWNERS[kind]
    opened = service.record_message(one, CUSTOMER, BUSINESS)
    assert opened.owner_id == one
    assert type(opened.owner_id) is type(one)
    assert service.record_message(one, BUSINESS, CUSTOMER, sender="agent").conv_id == opened.conv_id
    of_other = service.record_message(other, CUSTOMER, BUSINESS)
    assert of_other.conv_id != opened.conv_id
    assert [found.conv_id for found in service.get_active_conversations(one)] == [opened.conv_id]
    assert service.get_conversation_by_id(of_other.conv_id, owner_id=other) == of_other
    with pytest.raises(ConversationNotFoundError):
        service.get_conversation_by_id(of_other.conv_id, owner_id=one)
    service.extend_expiration(opened.conv_id, 5)
    service.close_conversation(opened.conv_id, "agent_closed", owner_id=one)
    assert [event.owner_id for event in service.get_conversation_events(opened.conv_id)] == [one, one]
    assert len(service.get_conversation_history(one, CUSTOMER, BUSINESS)) == 1


def test_a_worker_ends_what_is_due_and_a_purge_deletes_it(service: ConversationService, kind: str) -> None:
    ids = [service.record_message(owner, CUSTOMER, BUSINESS).conv_id for owner in OWNERS[kind]]
    make_due(service, "idle_check_at", ids[0])
    make_due(service, "expires_at", ids[1])
    runs = BackgroundWorker(service=service).run_cycle()
    assert [(run.ended, run.error) for run in runs] == [(1, None), (1, None), (0, None)]
    make_due(service, "ended_at", ids[1])
    assert service.conversation_repo.purger.purge(0.01).conversations == 1
    with pytest.raises(ConversationNotFoundError):
        service.get_conversation_by_id(ids[1])


def test_the_commands_know_the_owners(url: str, kind: str) -> None:
    with closing(ConversationService(url)) as service:
        conv_id = service.record_message(OWNERS[kind][0], CUSTOMER, BUSINESS).conv_id
        make_due(service, "expires_at", conv_id)
    for command in ("preview", "status", "worker --once"):
        result = run_here(*command.split(), "--database-url", url)
        assert result.returncode == 0, result
    assert json.loads(run_here("doctor", "--json", "--database-url", url).stdout)["findings"] == []


def test_owners_of_another_kind_are_refused_in_one_line(service: ConversationService, kind: str) -> None:
    wrong: Any = {"bigint": "acme", "uuid": 7, "text": 7}[kind]
    with pytest.raises(InvalidInputError, match="owner_id must be"):
        service.record_message(wrong, CUSTOMER, BUSINESS)


def test_an_event_loop_knows_them_too(service: ConversationService, url: str, kind: str) -> None:
    owner = OWNERS[kind][0]
    opened = service.record_message(owner, CUSTOMER, BUSINESS)

    async def find() -> list[Conversation]:
        database = AsyncDatabase(url)
        try:
            return await database.run(conversations.get_active, owner, 10)
        finally:
            await database.close()

    assert asyncio.run(find()) == [opened]


def test_the_text_of_a_uuid_is_that_owner_in_any_spelling(new_database: Callable[..., str], backend: str) -> None:
    url = new_database(backend, migrated=False)
    with closing(ConversationService(url)) as service:
        migrate(service.database, owner_type="uuid")
        opened = service.record_message(str(FIRST).upper(), CUSTOMER, BUSINESS)
        assert service.record_message(FIRST, CUSTOMER, BUSINESS).conv_id == opened.conv_id


def test_the_type_is_chosen_once(url: str, kind: str) -> None:
    with closing(Database(url)) as database:
        assert not migrate(database, owner_type=kind).changed
        assert not migrate(database).changed
        with pytest.raises(SchemaError, match=rf"its owner_id is {kind}, not {OTHER[kind]}; nothing was changed"):
            migrate(database, owner_type=OTHER[kind])
        with pytest.raises(InvalidInputError, match="'integer': use bigint, uuid, text"):
            migrate(database, owner_type="integer")
        assert database.shape().mapping.kinds["owner_id"] == kind


def test_the_schema_is_the_declared_one(url: str, kind: str) -> None:
    with closing(Database(url)) as database, database.engine.connect() as connection:
        options = {"compare_type": True, "include_name": lambda name, _kind, _parents: name != VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        tables = own_tables(database)
        assert tables.shape.mapping.kinds["owner_id"] is IdKind(kind)
        assert compare_metadata(context, tables.metadata) == []


def test_the_command_has_an_option(new_database: Callable[..., str], backend: str) -> None:
    url = new_database(backend, migrated=False)
    refused = run_here("migrate", "--owner-type", "number", "--database-url", url)
    assert "use bigint, uuid, text" in error_line(refused, 2)
    assert run_here("migrate", "--owner-type", "uuid", "--database-url", url).returncode == 0
    again = error_line(run_here("migrate", "--owner-type", "text", "--database-url", url), 1)
    assert again.startswith("the schema is there already, and its owner_id is uuid, not text")
    with closing(Database(url)) as database:
        assert database.shape().mapping.kinds["owner_id"] is IdKind.UUID


def test_a_file_is_asked_once_for_the_type(new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    url = new_database("sqlite", migrated=False)
    with closing(Database(url)) as database:
        migrate(database, owner_type="text")
    asked: list[str] = []
    with closing(ConversationService(url)) as service:
        connect = service.database.connect

        def traced() -> sqlite3.Connection:
            connection: sqlite3.Connection = connect()
            connection.set_trace_callback(lambda sql: asked.append(sql) if "pragma_table_info" in sql else None)
            return connection

        monkeypatch.setattr(service.database._pool, "_connect", traced)
        monkeypatch.setattr(service.database._reading_pool, "_connect", traced)
        for _ in range(3):
            service.record_message("acme", CUSTOMER, BUSINESS)
            service.get_active_conversations("acme")
    assert len(asked) == 1

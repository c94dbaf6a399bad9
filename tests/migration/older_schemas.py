"""Databases as older versions of lapse left them, with open conversations of each kind."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from alembic import command

from lapse import Database
from lapse.store.migrate import alembic_config
from tests.support.sql import run_sql

START = "2026-01-05 12:00:00.000000"
"""Each later event is an hour later; in UTC, as the tests' sessions may not be."""


class Case(NamedTuple):
    """A conversation, and what can be known of it afterwards."""

    status: str
    events: tuple[tuple[str, str, str | None], ...] = ()
    """The status from which each event leads, the one to which it leads, and its actor."""
    inbound: str | None = "'2026-01-05 12:00:00.000000'"
    opened_by: str | None = None
    answered: str | None = None
    """`start`: when it began; `later`: with an event."""
    version: int | None = None


PAUSE = ("progress", "idle_timeout", "worker")
LATER = "'2026-01-05 12:30:00.000000'"
OPENED = {
    "waiting": Case("pending", opened_by="user"),
    "answered by an agent": Case("progress", (("pending", "progress", "agent"),), opened_by="user", answered="later"),
    "answered by support": Case("progress", (("pending", "progress", "support"),), opened_by="user", answered="later"),
    "answered by nobody knows": Case("progress", (("pending", "progress", None),), opened_by="user", answered="later"),
    "only a notice": Case("progress", (("pending", "progress", "system"),), opened_by="user"),
    "paused and waiting": Case("idle_timeout", (("pending", "idle_timeout", "worker"),), opened_by="user"),
    "back from a pause, never answered": Case(
        "progress",
        (("pending", "idle_timeout", "worker"), ("idle_timeout", "progress", "user")),
        opened_by="user",
    ),
    "opened by your side, no answer": Case("progress", inbound=None, opened_by="agent", answered="start"),
    "opened by your side, answered": Case("progress", inbound=LATER, opened_by="agent", answered="start"),
    "opened by your side, paused": Case("idle_timeout", (PAUSE,), inbound=None, opened_by="agent", answered="start"),
    "began as progress with a message of the customer": Case("progress", answered="start"),
    "its history is gone": Case("progress", version=2),
    "closed": Case("agent_closed", (("pending", "progress", "agent"), ("progress", "agent_closed", "agent"))),
}


def migrated_to(url: str, version: str) -> Database:
    """Return a database that has the schema of this version."""
    database = Database(url)
    database.schema_transaction(lambda connection: command.upgrade(alembic_config(connection=connection), version))
    return database


def open_conversations(database: Database) -> None:
    """Write the conversations of `OPENED`, whose session key is their name, as an older lapse did."""
    for number, (name, case) in enumerate(OPENED.items()):
        events_of(database, number, name, case)


def events_of(database: Database, number: int, name: str = "another", case: Case = OPENED["waiting"]) -> None:
    """Write one conversation with its events."""
    zone = "" if database.dialect == "sqlite" else "+00"
    conv_id = UUID(int=number)
    version = len(case.events) if case.version is None else case.version
    inbound = "NULL" if case.inbound is None else f"{case.inbound[:-1]}{zone}'"
    run_sql(
        database,
        "INSERT INTO conversations (owner_id, conv_id, channel, session_key, from_number, to_number, status, version, "
        "started_at, updated_at, last_inbound_at, expires_at, idle_check_at, idle_timeout_seconds) "
        f"VALUES (1, '{conv_id}', 'sms', '{name}', 'a', 'b', '{case.status}', {version}, '{START}{zone}', "
        f"'{START}{zone}', {inbound}, '2999-01-01 00:00:00.000000{zone}', '2999-01-01 00:00:00.000000{zone}', 1800)",
    )
    kinds = {"progress": "activated", "idle_timeout": "paused", "agent_closed": "closed"}
    for place, (from_status, to_status, actor) in enumerate(case.events, start=1):
        kind = "reactivated" if from_status == "idle_timeout" else kinds[to_status]
        moment = START.replace("12:", f"{12 + place}:") + zone
        run_sql(
            database,
            "INSERT INTO conversation_events (owner_id, conv_id, version, type, from_status, to_status, actor, "
            f"occurred_at) VALUES (1, '{conv_id}', {place}, '{kind}', '{from_status}', '{to_status}', "
            f"{'NULL' if actor is None else repr(actor)}, '{moment}')",
        )

"""An application's table moves in and back out, in each form that it is met in: nothing of it is lost on the way."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from lapse import ConversationService
from tests.adoption.dumps import dump_program, schema_of
from tests.adoption.legacy_application import (
    BUSINESS,
    NEVER,
    LegacyApplication,
    ago,
    owner_of,
    write_dirty_rows,
)
from tests.adoption.legacy_table import FORMS, Form, connect, create_legacy_table, fill
from tests.adoption.snapshots import (
    Rows,
    check_changes,
    check_events,
    columns_of,
    expected_duplicates,
    fingerprints,
    read_events,
    read_rows,
    version_column,
)
from tests.chaos import scale
from tests.conftest import SERVERS, NewDatabase
from tests.support.commands import run_here
from tests.support.require_program import missing

ROWS = 50_000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take each form to one server, the next form to the next server; in a full run each to all."""
    names = list(metafunc.config.stash[SERVERS].by_name)
    turns = [
        (form, name)
        for place, form in enumerate(FORMS)
        for turn, name in enumerate(names)
        if scale.is_full() or turn == place % len(names)
    ]
    metafunc.parametrize(("form", "server"), turns, ids=[f"{form}-{name}" for form, name in turns])


class _Move:
    """One table on its way in and out."""

    def __init__(self, url: str, form: Form, connection: psycopg.Connection[Any]) -> None:
        self.url = url
        self.form = form
        self.connection = connection
        self.application = LegacyApplication(connection, form)
        self.columns = columns_of(connection)
        """The application's own."""

    def lapse(self, *arguments: str, code: int = 0) -> str:
        """Run a command on the database, and return what it says."""
        ended = run_here(*arguments, "--database-url", self.url)
        assert ended.returncode == code, f"{arguments}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def rows(self) -> Rows:
        """Return all rows as they are now."""
        return read_rows(self.connection, self.columns)


def test_a_table_moves_in_and_back_out(form: Form, server: str, new_database: NewDatabase, tmp_path: Path) -> None:
    url = new_database(server, migrated=False)
    program = dump_program(int(server.removeprefix("postgresql-")))
    with connect(url) as connection:
        create_legacy_table(connection, form)
        fill(connection, ROWS, form)
        write_dirty_rows(connection, form)
        move = _Move(url, form, connection)
        schema = program and schema_of(program, url)
        check_doctor_finds_what_is_there(move)
        check_adoption_changes_duplicates_only(move)
        check_a_second_adoption_does_nothing(move)
        check_the_application_finds_its_conversations_by_an_index(move)
        check_the_application_may_begin_another_conversation(move)
        check_the_worker_ends_what_is_due_only(move)
        check_lapse_serves_the_table(move)
        check_the_way_back(move, tmp_path / "events.csv")
        if program is None:
            missing(f"no pg_dump that reads {server}: the schema before and after was not compared")
        assert schema_of(program, url) == schema


# --- moving in ----------------------------------------------------------------------------------------------------


def _findings(move: _Move, code: int) -> dict[str, str]:
    """Return the codes that the doctor finds, with their levels."""
    said = json.loads(move.lapse("doctor", "--json", code=code))
    return {found["code"]: found["level"] for found in said["findings"]}


def check_doctor_finds_what_is_there(move: _Move) -> None:
    planted = {"not-adopted", "duplicates", "activity-trigger", "null-status", "null-channel", "null-expires-at"}
    if move.form.extra_statuses:
        planted.add("unknown-status")
    before = fingerprints(move.connection)
    found = _findings(move, 1)
    assert planted <= found.keys(), found
    assert move.form.extra_statuses or "unknown-status" not in found, found
    assert fingerprints(move.connection) == before
    assert found["far-time"] == "warning", "lapse copes with what never expires"


def check_adoption_changes_duplicates_only(move: _Move) -> None:
    before, duplicates = move.rows(), expected_duplicates(move.connection)
    assert len(duplicates) > ROWS * 0.09, "about half of the open ones are another one of their pair"
    move.lapse("adopt")
    check_changes(before, move.rows(), dict.fromkeys(duplicates, "expired"))
    spelled = "SELECT phone_number FROM conversations WHERE phone_number LIKE 'one pair%' AND status = 'progress'"
    assert move.connection.execute(spelled.encode()).fetchall() == [("one pair, newest",)]
    events = check_events(move.connection)
    assert {event.conv_id for event in events} == duplicates
    assert len(events) == len(duplicates)
    made = {(event.version, event.type, event.to_status, event.reason, event.actor) for event in events}
    assert made == {(1, "expired", "expired", "duplicate_session", "adopt")}
    assert all(event.from_status == before[event.conv_id].status for event in events)
    found = _findings(move, 0)
    assert "error" not in found.values(), found
    assert "unknown" not in found, "a check of the doctor failed"


def check_a_second_adoption_does_nothing(move: _Move) -> None:
    before = fingerprints(move.connection)
    said = move.lapse("adopt")
    assert fingerprints(move.connection) == before
    assert "nothing" in said.lower(), said


# --- the legacy application afterwards -------------------------------------------------------------------------------


def check_the_application_finds_its_conversations_by_an_index(move: _Move) -> None:
    if move.form.session_key:
        conv_id = move.application.insert("+5531900000000", status="progress", expires_at=ago(-1))
        assert "Index Scan" in (plan := move.application.plan_of_find_active(conv_id)), plan


def check_the_application_may_begin_another_conversation(move: _Move) -> None:
    first = move.application.insert("+5531900000001", status="progress")
    if move.form.unique_index:
        with pytest.raises(errors.UniqueViolation):  # as ever
            move.application.insert("+5531900000001", status="pending")
        assert move.application.status(first) == "progress"
    second = move.application.insert("whatsapp:+5531900000001", status="pending")
    assert move.application.status(first) == "expired"
    assert move.application.status(second) == "pending"
    assert move.application.value(second, "channel") == "whatsapp"
    (event,) = [event for event in read_events(move.connection) if event.conv_id == str(first)]
    assert (event.reason, event.actor) == ("duplicate_session", "application")


def check_the_worker_ends_what_is_due_only(move: _Move) -> None:
    application = move.application

    def insert(number: int, **values: Any) -> Any:
        begun = {"started_at": ago(3), "updated_at": ago(2), "expires_at": ago(-5), "status": "progress"}
        return application.insert(f"+55319100000{number:02}", **{**begun, **values})

    becomes = {
        insert(1): "idle_timeout",
        insert(2, status="pending"): "idle_timeout",
        insert(3, updated_at=ago(0.1)): "progress",
        insert(4, expires_at=ago(1)): "expired",
        insert(5, expires_at=ago(1), status="idle_timeout"): "expired",
        insert(6, expires_at=NEVER): "idle_timeout",
        insert(7, expires_at=NEVER, status="idle_timeout"): "idle_timeout",
        insert(8, status=None, expires_at=ago(1)): None,
        insert(9, channel=None, context=None, metadata=None): "idle_timeout",
        insert(10, started_at=None, expires_at=ago(1)): "expired",
        insert(11, status="agent_closed", ended_at=ago(1)): "agent_closed",
        **{insert(20, status=status, expires_at=ago(1)): status for status in move.form.extra_statuses},
    }
    heard_of, closed = insert(12), insert(13)
    assert application.set(heard_of, "updated_at = now()") == 1
    assert application.set(closed, "status = 'support_closed', ended_at = now()") == 1
    before = move.rows()
    expected = {conv_id: row.due for conv_id, row in before.items() if row.due}
    move.lapse("worker", "--once", "--accept-backlog")
    after = move.rows()
    check_changes(before, after, expected)
    found = {conv_id: after[str(conv_id)].status for conv_id in [*becomes, heard_of, closed]}
    assert found == {**becomes, heard_of: "progress", closed: "support_closed"}
    events = check_events(move.connection)
    assert {event.conv_id: event.to_status for event in events if event.actor == "worker"} == expected


# --- lapse on it, and back ----------------------------------------------------------------------------------------


def check_lapse_serves_the_table(move: _Move) -> None:
    owner = owner_of(move.form)
    known = move.application.insert("+5531920000001", status="pending", expires_at=ago(-1))
    service = ConversationService(move.url)
    try:
        answered = service.record_message(owner, BUSINESS, "whatsapp:+5531920000001", sender="agent")
        assert (answered.conv_id, answered.owner_id, answered.status) == (known, owner, "progress")
        begun = service.record_message(owner, "+5531920000002", BUSINESS, context={"language": "pt"})
        assert type(begun.conv_id) is type(known)
        assert service.get_conversation_by_id(begun.conv_id) == begun
        closed = service.close_conversation(begun.conv_id, "agent_closed", "solved", "ana")
        assert closed.status == "agent_closed"
        again = service.record_message(owner, "+5531920000002", BUSINESS)
        history = service.get_conversation_history(owner, "whatsapp:+5531920000002", BUSINESS)
        assert [found.conv_id for found in history] == [again.conv_id, begun.conv_id]
        (event,) = service.get_conversation_events(begun.conv_id)
        assert (event.reason, event.actor) == ("solved", "ana")
        assert known in [found.conv_id for found in service.get_active_conversations(owner, limit=1_000)]
    finally:
        service.close()
    check_events(move.connection)


def check_the_way_back(move: _Move, exported: Path) -> None:
    events, before, version = read_events(move.connection), move.rows(), version_column(move.connection)
    move.lapse("unadopt", "--export", str(exported))
    with exported.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    kept = {(line["conv_id"], line[version], line["type"], line["reason"], line["actor"]) for line in lines}
    assert kept == {(event.conv_id, str(event.version), event.type, event.reason, event.actor) for event in events}
    assert len(lines) == len(events)
    assert columns_of(move.connection) == move.columns
    assert move.rows() == before
    conv_id = move.application.insert("+5531930000001", updated_at=ago(5))
    assert move.application.set(conv_id, "status = 'progress'") == 1
    assert move.application.value(conv_id, "updated_at > now() - interval '1 minute'")

"""Times that PostgreSQL knows and Python's calendar does not, in lapse's own table: `infinity`, and years past 9999."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import pytest

from lapse import BackgroundWorker, ConversationService, Database
from lapse.http import WorkerApp
from lapse.models import NEVER
from lapse.store.chronicle import Chronicle
from tests.chaos import scale
from tests.support.commands import run_here
from tests.support.http_client import ask
from tests.support.sql import run_sql

CUSTOMER, BUSINESS = "+5511999999999", "+14155238886"
IDLE, EXPIRED = "idle_conversations", "expired_conversations"
LONG_AGO = datetime.min.replace(tzinfo=UTC)
NEVER_TEXT = "9999-12-31 23:59:59.999999+00"
FAR = ["infinity", NEVER_TEXT, "10000-01-01 00:00:00+00", "294276-12-31 23:59:59+00"]
LONG_PAST = ["-infinity", "0001-01-01 00:00:00+00", "4000-01-01 00:00:00+00 BC", "4713-12-31 00:00:00+00 BC"]
ZONES = ["Pacific/Kiritimati", "Etc/GMT+12"]


class Given(NamedTuple):
    """A service whose sessions are in some zone, and a conversation that is open."""

    service: ConversationService
    conv_id: UUID


@pytest.fixture(params=scale.scaled(small=ZONES[:1], full=ZONES))
def given(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[Given]:
    with closing(Database(postgres_url)) as database:
        name = run_sql(database, "SELECT current_database() AS name")[0].name
        run_sql(database, f"ALTER DATABASE \"{name}\" SET TimeZone = '{request.param}'")
    with closing(ConversationService(postgres_url)) as service:
        opened = service.record_message(1, CUSTOMER, BUSINESS)
        assert isinstance(opened.conv_id, UUID)
        yield Given(service, opened.conv_id)


def write(given: Given, column: str, moment: str) -> None:
    moment = moment.replace(":", r"\:")  # no parameter's name
    run_sql(given.service.database, f"UPDATE conversations SET {column} = '{moment}'")


@pytest.mark.parametrize("moment", FAR)
def test_what_never_expires_is_read_as_never_by_every_call(given: Given, moment: str) -> None:
    service = given.service
    write(given, "expires_at", moment)
    found = service.get_conversation_by_id(given.conv_id)
    assert found.expires_at == NEVER
    assert found.expires_at.tzinfo is UTC
    assert service.get_active_conversations(1) == service.get_conversation_history(1, CUSTOMER, BUSINESS) == [found]
    assert service.get_or_create_conversation(1, CUSTOMER, BUSINESS) == found
    assert service.record_message(1, CUSTOMER, BUSINESS).expires_at == NEVER
    assert service.record_message(1, BUSINESS, CUSTOMER, sender="agent").expires_at == NEVER
    assert service.find_expired_conversations() == []
    assert service.extend_expiration(given.conv_id, 5).expires_at == NEVER
    deadlines = service.next_deadlines()
    assert deadlines.due_at[EXPIRED] == NEVER
    assert deadlines.earliest == deadlines.due_at[IDLE]
    run_sql(service.database, "UPDATE conversations SET updated_at = started_at, idle_check_at = started_at")
    run_sql(service.database, "UPDATE conversations SET updated_at = updated_at - interval '1 h'")
    assert service.process_idle_conversations() == 1
    assert service.record_message(1, CUSTOMER, BUSINESS).expires_at == NEVER
    closed = service.close_conversation(given.conv_id, "user_closed")
    assert (closed.expires_at, closed.version) == (NEVER, 4)
    assert service.conversation_repo.purger.purge(1).conversations == 0


@pytest.mark.parametrize("moment", FAR)
def test_a_worker_and_the_commands_live_with_what_never_expires(
    given: Given, postgres_url: str, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(given, "expires_at", moment)
    worker = BackgroundWorker(service=given.service)
    deadlines = worker._poll()
    assert deadlines is not None
    assert deadlines.due_at[EXPIRED] == NEVER
    assert {run.error for run in worker.run_cycle(deadlines)} == {None}
    assert worker._seconds_to_wait([], deadlines, 0.0) >= 0
    metrics = ask(WorkerApp(worker), "/metrics")
    assert metrics[0] == 200
    assert 'lapse_oldest_due_seconds{task_type="expired_conversations"} 0.0' in metrics[1]
    assert worker.run_once()
    assert "unknown" not in capsys.readouterr().out
    for command in (["status", "--json"], ["status"], ["preview", "--json"], ["preview"], ["worker", "--once"]):
        result = run_here(*command, "--database-url", postgres_url)
        assert (result.returncode, result.stderr) == (0, ""), result
        if command == ["status", "--json"]:
            assert json.loads(result.stdout)["due"] == {"idle_conversations": 0, "expired_conversations": 0}
    assert given.service.get_conversation_by_id(given.conv_id).status == "pending"


@pytest.mark.parametrize("moment", LONG_PAST)
def test_what_expired_before_all_times_ends_once(given: Given, postgres_url: str, moment: str) -> None:
    service = given.service
    write(given, "expires_at", moment)
    found = service.get_conversation_by_id(given.conv_id)
    assert service.find_expired_conversations() == [found]
    for command in (["status", "--json"], ["preview", "--json"], ["preview"], ["doctor", "--json"]):
        result = run_here(*command, "--database-url", postgres_url)
        assert result.stderr == "", result
        assert result.stdout, result
    assert service.get_active_conversations(1) == []
    assert service.get_conversation_history(1, CUSTOMER, BUSINESS) == [found]
    anew = service.record_message(1, CUSTOMER, BUSINESS)
    assert anew.conv_id != given.conv_id
    (event,) = service.get_conversation_events(given.conv_id)
    assert event.type == "expired"
    assert event.deadline == found.expires_at < datetime(2, 1, 1, tzinfo=UTC)
    assert BackgroundWorker(service=service).run_once()
    assert len(service.get_conversation_events(given.conv_id)) == 1


@pytest.mark.parametrize("moment", LONG_PAST)
def test_a_worker_ends_what_expired_before_all_times(given: Given, moment: str) -> None:
    service = given.service
    write(given, "expires_at", moment)
    assert BackgroundWorker(service=service).run_once()
    assert service.get_conversation_by_id(given.conv_id).status == "expired"
    (event,) = service.get_conversation_events(given.conv_id)
    assert event.deadline is not None
    assert event.deadline < datetime(2, 1, 1, tzinfo=UTC)
    assert event.deadline.tzinfo is UTC


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "12000-01-01", "0044-03-15 BC"])
def test_every_time_of_a_conversation_can_be_read_whatever_was_written(given: Given, moment: str) -> None:
    service = given.service
    expected = LONG_AGO if moment.startswith("-") or moment.endswith("BC") else NEVER
    for column in ("started_at", "updated_at", "last_inbound_at", "ended_at", "idle_check_at"):
        write(given, column, moment)
        found = service.get_conversation_by_id(given.conv_id)
        assert getattr(found, column) == expected
        assert service.get_active_conversations(1) == [found]
        assert list(Chronicle(service.database).changes())
        service.next_deadlines()
        service.find_idle_conversations()
        run_sql(service.database, f"UPDATE conversations SET {column} = now()")
    write(given, "updated_at", moment)
    assert BackgroundWorker(service=service).run_once()
    assert service.record_message(1, CUSTOMER, BUSINESS).conv_id == given.conv_id


def test_never_written_by_lapse_itself_is_read_back_in_any_zone(given: Given) -> None:
    service = given.service
    assert service.extend_expiration(given.conv_id, until=NEVER).expires_at == NEVER
    assert service.get_conversation_by_id(given.conv_id).expires_at == NEVER
    assert service.extend_expiration(given.conv_id, 5).expires_at == NEVER
    early = service.record_message(2, CUSTOMER, BUSINESS)
    assert timedelta(hours=23) < early.expires_at - early.started_at < timedelta(hours=25)

"""The library and the commands on an adopted table: its ids, its statuses and what it leaves NULL stay its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from lapse import (
    BackgroundWorker,
    ConversationChangedError,
    ConversationService,
    InvalidInputError,
    InvalidTransitionError,
    SchemaMissingError,
)
from lapse.models import NEVER
from tests.adoption.adoption_helpers import adopt
from tests.adoption.legacy_table import FORMS, Form, connect, create_legacy_table
from tests.support.commands import error_line, run_lapse

BUSINESS, CUSTOMER = "+14155238886", "+5511999990001"
OWNERS: dict[str, Any] = {"bigint": 7, "uuid": UUID("0198c5ac-9f00-7b3e-8a51-6f1d2c3b4a59")}
IS_ID: dict[str, Callable[[Any], bool]] = {
    "bigint": lambda conv_id: isinstance(conv_id, int),
    "uuid": lambda conv_id: isinstance(conv_id, UUID),
    "text": lambda conv_id: bool(re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", conv_id)),
}


@pytest.fixture(params=FORMS, ids=str)
def form(request: pytest.FixtureRequest) -> Form:
    found = request.param
    assert isinstance(found, Form)
    return found


@pytest.fixture
def old_url(empty_postgres_url: str, form: Form) -> str:
    """Return the URL of a database with an empty legacy table of this form."""
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, form)
    return empty_postgres_url


@pytest.fixture
def adopted_url(old_url: str) -> str:
    adopt(old_url)
    return old_url


@pytest.fixture
def service(adopted_url: str) -> Iterator[ConversationService]:
    with closing(ConversationService(adopted_url)) as opened:
        yield opened


@pytest.fixture
def owner(form: Form) -> Any:
    return OWNERS[form.owner_id]


def test_a_conversation_lives_and_ends(service: ConversationService, form: Form, owner: Any) -> None:
    opened = service.record_message(owner, f"whatsapp:{CUSTOMER}", BUSINESS, user_id=5, metadata={"from": "test"})
    assert IS_ID[form.conv_id](opened.conv_id)
    assert (opened.owner_id, opened.status, opened.version, opened.user_id) == (owner, "pending", 0, 5)
    assert service.record_message(owner, CUSTOMER, BUSINESS).conv_id == opened.conv_id
    answered = service.record_message(owner, BUSINESS, CUSTOMER, sender="agent")
    assert (answered.conv_id, answered.status, answered.version) == (opened.conv_id, "progress", 1)
    assert service.get_or_create_conversation(owner, CUSTOMER, BUSINESS).conv_id == opened.conv_id
    until = opened.expires_at + timedelta(hours=1)
    assert service.extend_expiration(opened.conv_id, until=until, owner_id=owner).expires_at == until
    closed = service.close_conversation(opened.conv_id, "agent_closed", reason="solved", owner_id=owner)
    assert (closed.status, closed.version) == ("agent_closed", 2)
    assert [event.version for event in service.get_conversation_events(opened.conv_id)] == [1, 2]
    later = service.record_message(owner, CUSTOMER, BUSINESS)
    assert later.conv_id != opened.conv_id
    assert service.get_active_conversations(owner) == [later]
    assert service.get_conversation_history(owner, BUSINESS, CUSTOMER) == [later, closed]
    with pytest.raises(InvalidInputError, match="owner_id"):
        service.record_message(owner_id=["of no type"], from_number=CUSTOMER, to_number=BUSINESS)  # type: ignore[call-overload]


def test_what_the_application_wrote_is_found_and_goes_on(
    service: ConversationService, adopted_url: str, owner: Any, form: Form
) -> None:
    with connect(adopted_url) as connection:
        written = connection.execute(
            f"""INSERT INTO conversations (conv_id, owner_id, from_number, to_number, channel, context, expires_at)
            VALUES ({"DEFAULT" if form.conv_id == "bigint" else "%(id)s"}, %(owner)s, %(customer)s, %(business)s,
                NULL, NULL, NULL) RETURNING conv_id""".encode(),
            {"id": "0198c5ac-0000-7b3e-8a51-6f1d2c3b4a59", "owner": owner}
            | {"customer": f"whatsapp:{CUSTOMER}", "business": f"whatsapp:{BUSINESS}"},
        ).fetchone()
    assert written
    found = service.record_message(owner, CUSTOMER, BUSINESS, sender="agent")
    assert (found.conv_id, found.status) == (written[0], "progress")
    assert (found.channel, found.context, found.expires_at) == ("whatsapp", {}, NEVER)
    assert service.get_conversation_history(owner, BUSINESS, CUSTOMER) == [found]
    about_now = datetime.now(UTC)
    assert abs(service.extend_expiration(found.conv_id, 60).expires_at - about_now - timedelta(hours=1)) < (
        timedelta(minutes=1)
    ), "without an expiry it begins now"


@pytest.mark.parametrize("form", [FORMS[0]], ids=str)
def test_a_status_that_lapse_does_not_know_is_left_alone(
    service: ConversationService, adopted_url: str, owner: Any
) -> None:
    opened = service.record_message(owner, CUSTOMER, BUSINESS)
    with connect(adopted_url) as connection:
        connection.execute("ALTER TABLE conversations DROP CONSTRAINT conversations_status_check")
        connection.execute(
            "UPDATE conversations SET status = 'human_handoff', updated_at = '2020-01-01', expires_at = '2020-01-01'"
        )
    assert service.get_conversation_by_id(opened.conv_id).status == "human_handoff"
    with pytest.raises(InvalidTransitionError, match="'human_handoff', which is the application's own"):
        service.close_conversation(opened.conv_id, "agent_closed")
    with pytest.raises(InvalidTransitionError, match="not open, but human_handoff"):
        service.extend_expiration(opened.conv_id, 5)
    worker = BackgroundWorker(service=service)
    assert all((run.ended, run.rearmed, run.error) == (0, 0, None) for run in worker.run_cycle())
    assert service.get_conversation_by_id(opened.conv_id).status == "human_handoff"


@pytest.mark.parametrize("form", [Form(conv_id="text")], ids=str)
def test_text_ids_go_on_in_the_form_that_is_there(service: ConversationService, adopted_url: str, owner: Any) -> None:
    with connect(adopted_url) as connection:
        connection.execute(
            "INSERT INTO conversations (conv_id, owner_id, from_number, to_number) VALUES (%s, %s, 'a', 'b')",
            [str(OWNERS["uuid"]), owner],
        )
    opened = service.record_message(owner, CUSTOMER, BUSINESS)
    assert UUID(str(opened.conv_id)).version == 7


@pytest.mark.parametrize("form", [FORMS[3]], ids=str)
def test_every_command_knows_the_table(adopted_url: str, service: ConversationService, owner: Any) -> None:
    closed = service.record_message(owner, CUSTOMER, BUSINESS)
    service.close_conversation(closed.conv_id, "user_closed")
    service.record_message(owner, CUSTOMER, BUSINESS)
    with connect(adopted_url) as connection:
        connection.execute("ALTER TABLE conversations DISABLE TRIGGER USER")
        connection.execute("UPDATE conversations SET ended_at = '2020-01-01' WHERE status = 'user_closed'")
        connection.execute("UPDATE conversations SET expires_at = '2020-01-01' WHERE status = 'pending'")
        connection.execute("ALTER TABLE conversations ENABLE TRIGGER USER")
    status = json.loads(run_lapse("status", "--json", "--database-url", adopted_url).stdout)
    assert status["due"] == {"idle_conversations": 0, "expired_conversations": 1}
    purged = run_lapse("purge", "--closed-before", "30", "--json", "--database-url", adopted_url)
    assert json.loads(purged.stdout.splitlines()[-1])["conversations"] == 1, purged
    assert run_lapse("worker", "--once", "--database-url", adopted_url).returncode == 0
    assert service.get_conversation_history(owner, CUSTOMER, BUSINESS)[0].status == "expired"
    assert "at version" in run_lapse("migrate", "--database-url", adopted_url).stdout


@pytest.mark.parametrize("form", [FORMS[0]], ids=str)
def test_before_it_is_adopted_a_table_is_refused_and_afterwards_taken(old_url: str, owner: Any) -> None:
    line = error_line(run_lapse("worker", "--once", "--database-url", old_url), 1)
    assert "`lapse adopt`" in line
    with closing(ConversationService(old_url)) as service:
        with pytest.raises(SchemaMissingError, match="an application made"):
            service.record_message(owner, CUSTOMER, BUSINESS)
        adopt(old_url)
        assert service.record_message(owner, CUSTOMER, BUSINESS).status == "pending"


def test_what_the_application_keeps_with_a_conversation_is_updated_and_is_no_activity(
    service: ConversationService, adopted_url: str, owner: Any
) -> None:
    opened = service.record_message(owner, CUSTOMER, BUSINESS, metadata={"source": "ad"})
    with connect(adopted_url) as application:
        # Its trigger sets `updated_at`; and it left its JSON NULL.
        application.execute("UPDATE conversations SET context = NULL")
    found = service.get_conversation_by_id(opened.conv_id)
    assert found.updated_at > opened.updated_at, "what the application itself changes is activity"
    updated = service.update_conversation(
        opened.conv_id, user_id=5, context={"step": 1, "never there": None}, metadata={"source": None, "utm": "x"}
    )
    assert (updated.user_id, updated.context, updated.metadata) == (5, {"step": 1}, {"utm": "x"})
    assert (updated.updated_at, updated.version) == (found.updated_at, found.version)
    assert service.extend_expiration(opened.conv_id, 5, owner_id=owner).updated_at == found.updated_at
    closed = service.close_conversation(opened.conv_id, "agent_closed", if_updated_at=found.updated_at)
    assert service.update_conversation(closed.conv_id, context={"step": 2}, owner_id=owner).context == {"step": 2}


def test_nothing_is_closed_unseen_whoever_wrote_the_activity(
    service: ConversationService, adopted_url: str, owner: Any
) -> None:
    opened = service.record_message(owner, CUSTOMER, BUSINESS)
    with connect(adopted_url) as application:
        application.execute('UPDATE conversations SET context = \'{"by": "application"}\'')
    with pytest.raises(ConversationChangedError):
        service.close_conversation(opened.conv_id, "agent_closed", if_updated_at=opened.updated_at)


def test_what_has_no_expiry_stays_active_and_what_is_past_it_does_not(
    service: ConversationService, adopted_url: str, owner: Any
) -> None:
    never = service.record_message(owner, CUSTOMER, BUSINESS)
    service.record_message(owner, "+5511999990002", BUSINESS)
    with connect(adopted_url) as application:
        past = application.execute("UPDATE conversations SET expires_at = now() - interval '1 s' RETURNING conv_id")
        assert past.rowcount == 2
        assert service.get_active_conversations(owner) == []
        application.execute("UPDATE conversations SET expires_at = NULL WHERE conv_id = %s", [never.conv_id])
    assert [found.conv_id for found in service.get_active_conversations(owner)] == [never.conv_id]

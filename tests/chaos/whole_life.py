"""Every main call of lapse once, and what comes out, in a form that two databases can be compared by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from lapse import BackgroundWorker, ConversationAlreadyOpenError, ConversationService, InvalidTransitionError
from lapse.models import ConversationEvent
from lapse.store import Database
from lapse.store.chronicle import Chronicle
from lapse.store.preview import preview
from tests.support.clock import START, ManualClock
from tests.support.commands import run_here
from tests.support.sql import run_sql

BUSINESS, CUSTOMER = "+14155238886", "+5511990000001"
SILENT, LATE = "+5511990000002", "+5511990000003"
HANDLES = ("joão", "joão€", "日本", "ana😀")
CONTEXT = {"flow": "olá \\ ' \" %s :x", "depth": [1.5, {"a": None}], "日本": "😀", "n": 10**15, "tiny": 1e-7}


class Life:
    """What was handed out, step by step. Ids are numbered as they come, since no two runs have the same."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, Any]] = []
        self._ids: dict[Any, int] = {}

    def note(self, step: str, value: Any) -> None:
        """Note what a step has brought."""
        self.steps.append((step, self.plain(value)))

    def plain(self, value: Any) -> Any:
        """Return a value in a form that tells the types, and knows ids by their numbers."""
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return (type(value).__name__, self.plain(fields))
        if isinstance(value, UUID):
            return f"id {self._ids.setdefault(value, len(self._ids))}"
        if isinstance(value, datetime):
            assert value.tzinfo is UTC, value
        if isinstance(value, dict):
            return {self.plain(key): self.plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(item) for item in value]
        # 1 and True, 1 and 1.0, a status and its text are equal, but not the same.
        return (type(value).__name__, value.value if isinstance(value, Enum) else value)


class Lives:
    """A database whose settings change, and two services: what they have compiled is kept, their sessions are not."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = ManualClock()
        self._standing = ConversationService(url, clock=self.clock)
        self._running = ConversationService(url)

    @property
    def database(self) -> Database:
        """Return the database."""
        return self._standing.database

    def close(self) -> None:
        """Close the sessions, so that the next ones begin with what the database has been given."""
        for service in (self._standing, self._running):
            service.close()
            service.database.invalidate()

    def empty(self) -> None:
        """Delete all rows."""
        run_sql(self.database, "WITH events AS (DELETE FROM conversation_events) DELETE FROM conversations")

    def live(self, between: Callable[[], object] = lambda: None) -> Life:
        """Run every main call of the service and a worker's cycle, in the time of a clock that stands still.

        Args:
            between: called between two calls.
        """
        life, clock, service = Life(), self.clock, self._standing
        clock.now = START

        def say(step: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            value = call(*arguments, **options)
            life.note(step, value)
            between()
            return value

        message = service.record_message
        opened = say("opens", message, 1, CUSTOMER, BUSINESS, user_id=7, context=CONTEXT, metadata=CONTEXT)
        say("is asked for", service.get_or_create_conversation, 1, BUSINESS, CUSTOMER)
        with pytest.raises(ConversationAlreadyOpenError):
            service.create_conversation(1, CUSTOMER, BUSINESS)
        clock.advance(seconds=0.000001)
        say("goes on", message, 1, CUSTOMER, BUSINESS)
        clock.advance(minutes=1)
        say("is answered", message, 1, BUSINESS, CUSTOMER, sender="agent")
        clock.advance(seconds=1)  # no two deadlines at one moment, whose order would be anybody's guess
        say("notice", message, 1, BUSINESS, SILENT, sender="system")
        say("what is next", service.next_deadlines)
        clock.advance(minutes=31)
        say("idle ones", service.find_idle_conversations)
        say("pauses", service.process_idle_conversations)
        say("pauses again", service.process_idle_conversations)
        say("comes back", message, 1, CUSTOMER, BUSINESS)
        say("is extended", service.extend_expiration, opened.conv_id, 0.5)
        say("is extended to", service.extend_expiration, opened.conv_id, until=opened.expires_at + timedelta(days=9))
        extra: dict[str, Any] = {"user_id": 8, "context": {"b": [2]}, "metadata": {"a": 1}}
        late = say("is created", service.create_conversation, 1, LATE, BUSINESS, "sms", **extra)
        clock.advance(minutes=25 * 60)
        say("expired ones", service.find_expired_conversations)
        say("begins anew", message, 1, LATE, BUSINESS, "sms")
        say("the old one", service.get_conversation_by_id, late.conv_id, owner_id=1)
        say("its end", service.get_conversation_events, late.conv_id)
        say("expires", service.process_expired_conversations)
        self._live_on(opened.conv_id, say)
        life.note("lifetimes", sorted(changes_of(service)))
        return life

    def _live_on(self, conv_id: Any, say: Callable[..., Any]) -> None:
        clock, service, message = self.clock, self._standing, self._standing.record_message
        repository = service.conversation_repo
        say("is closed", service.close_conversation, conv_id, "agent_closed", "dito 'ok' \\", "ana")
        with pytest.raises(InvalidTransitionError):
            service.close_conversation(conv_id, "failed")
        for number, handle in enumerate(HANDLES):
            clock.advance(seconds=1)
            say("handle", message, 2, handle, BUSINESS, "webchat", metadata={"place": number})
            say("its history", service.get_conversation_history, 2, BUSINESS, handle, "webchat")
        clock.advance(minutes=10)
        say("an owner's", service.get_active_conversations, 2)
        say("history", service.get_conversation_history, 1, CUSTOMER, BUSINESS)
        say("events", service.get_conversation_events, conv_id)
        say("counted", repository.count_open_by_status)
        clock.advance(minutes=1441)
        say("what is due", service.next_deadlines)
        service.close()  # a worker's single run does not try again on another session
        assert BackgroundWorker(service=service).run_once()
        transitions = transitions_of(service)  # those of one moment come in no order
        say("transitions", lambda: sorted(str((replace(event, conv_id=0), *pair)) for event, *pair in transitions))
        say("purges", repository.purger.purge, 1, batch_size=1)
        say("what is left", service.get_conversation_history, 1, CUSTOMER, BUSINESS)
        for handle in HANDLES:
            say("handle again", message, 2, handle, BUSINESS, "webchat")

    def look(self) -> Life:
        """Look at what `live` has left, which is due by the server's clock, end it, and call a few by that clock."""
        life, service = Life(), self._running
        found = asdict(preview(service.database, service.idle_timeout()))
        before = found.pop("now")
        assert before.tzinfo is UTC
        assert abs(before - datetime.now(UTC)) < timedelta(minutes=1)
        for name in ("histogram_begin", "histogram_end", "histogram"):
            found.pop(name)
        life.note("preview", found)
        life.note("due", service.conversation_repo.count_due(service.idle_timeout()))
        assert BackgroundWorker(service=service).run_once()
        life.note("active", service.conversation_repo.count_active())
        life.note("open", service.conversation_repo.count_open_by_status())
        said = [service.record_message(3, CUSTOMER, BUSINESS) for _ in range(2)]
        life.note("same", said[0].conv_id == said[1].conv_id)
        assert timedelta(0) < said[0].started_at - before < timedelta(minutes=1)
        life.note("lasts", said[0].expires_at - said[0].started_at)
        life.note("ends", service.close_conversation(said[0].conv_id, "user_closed").status)
        life.note("ended", sorted(event.type for event, _, _ in transitions_of(service)))
        life.note("left", [service.find_idle_conversations(), service.find_expired_conversations()])
        life.note("next", service.next_deadlines().earliest)
        return life


def transitions_of(service: ConversationService) -> list[tuple[ConversationEvent, str, str]]:
    """Return every event, with its conversation's channel and session key."""
    return list(Chronicle(service.database).events())


def changes_of(service: ConversationService) -> list[tuple[datetime, int]]:
    """Return when conversations began (1) and ended (-1)."""
    return list(Chronicle(service.database).changes())


def check_same(found: Sequence[Life], expected: Sequence[Life]) -> None:
    """Fail with the first step that brought something else."""
    for one, other in zip(found, expected, strict=True):
        for step, should in zip(one.steps, other.steps, strict=True):
            assert step == should


def run_commands(url: str) -> Life:
    """Run the commands over what `live` has left: each ends well, and complains of nothing."""
    life = Life()
    for arguments in (["status", "--json"], ["preview", "--json"], ["preview"], ["worker", "--once"], ["status"]):
        result = run_here(*arguments, "--database-url", url)
        assert (result.returncode, result.stderr) == (0, ""), result
        found = json.loads(result.stdout) if "--json" in arguments else {}
        for name in ("database", "now", "histogram_begin", "histogram_end", "histogram"):
            found.pop(name, None)
        life.note(" ".join(arguments), found)
    return life


def run_doctor(url: str) -> str:
    """Run the doctor, which may find trouble, and say so, but does not fail; return what it says."""
    result = run_here("doctor", "--json", "--database-url", url)
    assert result.returncode in (0, 1), result
    assert result.stderr == "", result
    assert json.loads(result.stdout)["healthy"] is (result.returncode == 0)
    return result.stdout

"""How many conversations are active: exact while there are few, and cheap however many there are."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lapse import ConversationService, Database
from lapse.store import ConversationRepository
from lapse.store.operations import due
from tests.support.backlog import insert_conversations
from tests.support.clock import ManualClock
from tests.support.sql import run_sql


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """Count at most ten one by one."""
    monkeypatch.setattr(due, "EXACT_UP_TO", {"postgresql": 10, "sqlite": 10})
    return 10


def test_what_is_pending_or_in_progress_is_active(service: ConversationService, clock: ManualClock) -> None:
    assert service.conversation_repo.count_active() == 0
    opened = [service.record_message(1, f"+551190000000{n}", "+14155238886") for n in range(3)]
    service.record_message(1, "+14155238886", "+5511900000000", sender="agent")
    assert service.conversation_repo.count_active() == 3
    service.close_conversation(opened[1].conv_id, "agent_closed")
    assert service.conversation_repo.count_active() == 2
    clock.advance(minutes=31)
    assert service.process_idle_conversations() == 2
    assert service.conversation_repo.count_active() == 0, "what is paused is open, not active"


def test_beyond_the_limit_it_is_an_estimate_or_more_than_the_limit(database: Database, limit: int) -> None:
    count_active = ConversationRepository(database).count_active
    insert_conversations(database, range(limit))
    assert count_active() == limit
    insert_conversations(database, range(limit, 300))
    insert_conversations(database, range(300, 400), status="expired", expires_in=-timedelta(days=1))
    if database.dialect == "sqlite":
        assert count_active() == limit + 1
        return
    assert count_active() == limit + 1, "nobody has analysed the table yet"
    run_sql(database, "ANALYZE conversations")
    assert count_active() == 300

"""Replay in groups: where one ends and the next one begins makes no difference."""

from __future__ import annotations

import io
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lapse import ConversationService, Settings, migrate
from lapse.replay import VirtualClock, read_message_log, replay, simulation, write_events
from lapse.replay.message_log import LoggedMessage
from lapse.store.chronicle import Chronicle
from tests.command.test_replay import awkward_log
from tests.support.sql import run_sql

IDLE, EXPIRATION = timedelta(minutes=2), timedelta(minutes=5)
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
STATES = """
    SELECT channel, session_key, status, version, opened_by, started_at, updated_at, last_inbound_at, last_outbound_at,
        first_answered_at, ended_at, expires_at, idle_check_at
    FROM conversations ORDER BY owner_id, session_key, started_at
"""


@pytest.mark.parametrize("size", [1, 7])
def test_small_groups_leave_what_one_group_leaves(
    new_database: Any, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    awkward_log(tmp_path / "log.csv", 3, IDLE, EXPIRATION)

    def left_by(size: int) -> tuple[str, list[Any]]:
        monkeypatch.setattr(simulation, "GROUP", size)
        clock, events = VirtualClock(), io.StringIO()
        settings = Settings(idle_timeout_minutes=2, expiration_minutes=5)
        service = ConversationService(new_database(backend), clock=clock, settings=settings)
        with closing(service), closing(read_message_log(tmp_path / "log.csv")) as log:
            migrate(service.database)
            replay(service, clock, log)
            write_events(Chronicle(service.database), events)
            return "".join(sorted(events.getvalue().splitlines(keepends=True))), run_sql(service.database, STATES)

    events, conversations = left_by(1_000)
    assert len(conversations) > 20
    assert left_by(size) == (events, conversations)


@pytest.mark.parametrize("size", [2, 1])
def test_of_one_id_on_two_pairs_the_earlier_message_counts(
    new_database: Any, backend: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Whichever pair comes first in the order in which rows are locked."""
    monkeypatch.setattr(simulation, "GROUP", size)
    clock = VirtualClock()
    messages = [
        LoggedMessage(BEGIN + timedelta(seconds=n), 1, f"+55119{customer:08}", "+551140000000", "whatsapp", "user", "a")
        for n, customer in enumerate((2, 1))
    ]
    with closing(ConversationService(new_database(backend), clock=clock)) as service:
        migrate(service.database)
        assert replay(service, clock, messages) == 1
        (conversation,) = run_sql(service.database, "SELECT from_number FROM conversations")
    assert conversation.from_number == "+5511900000002"

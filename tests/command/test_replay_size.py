"""What a replay needs: memory that does not grow with the log, and work that follows deadlines, not elapsed time."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lapse import ConversationService, migrate
from lapse.replay import (
    VirtualClock,
    draw_open_conversations,
    read_message_log,
    replay,
    summarise,
    write_events,
)
from lapse.store.chronicle import Chronicle
from lapse.store.operations.virtual_time import GROUP
from lapse.store.statements import Statement
from tests.support.sql import run_sql

HEADER = "at,owner_id,from_number,to_number,channel,sender\n"
FEW, MANY = 2_000, 6_000
GROWTH_BYTES = 200_000
"""What is allowed between both, each of which fills two pages of a result. As an object, a message takes 500."""


def write_log(path: Path, messages: int, gap: timedelta, customers: int = 50) -> Path:
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADER)
        for place in range(messages):
            at = (begin + place * gap).isoformat()
            file.write(f"{at},1,+1212{place % customers:07},+14155238886,whatsapp,user\n")
    return path


def peak_of(work: Callable[[], object]) -> int:
    """Return the most memory that Python held at once during this, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_log_is_read_without_holding_its_messages(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        with closing(read_message_log(path)) as log:
            assert sum(1 for _ in log) == log.messages

    few, many = (write_log(tmp_path / f"{n}.csv", n, timedelta(seconds=1)) for n in (FEW, MANY))
    read(few)  # what is loaded once is loaded
    assert peak_of(lambda: read(many)) < peak_of(lambda: read(few)) + GROWTH_BYTES


PAST = """
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :conversations)
    INSERT INTO conversations (owner_id, conv_id, channel, session_key, from_number, to_number, status, version,
        started_at, updated_at, ended_at, expires_at, idle_check_at, idle_timeout_seconds)
    SELECT 1, {uuid}, 'sms', '+12125550100::' || n, '+12125550100', 'x' || n, 'expired', 1,
        '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', '2026-01-02 00:00:00.000000',
        '2026-01-02 00:00:00.000000', '2026-01-01 00:30:00.000000', 1800 FROM numbers"""
EVENTS = """
    INSERT INTO conversation_events (owner_id, conv_id, version, type, from_status, to_status, deadline, occurred_at)
    SELECT owner_id, conv_id, 1, 'expired', 'pending', 'expired', expires_at, expires_at FROM conversations"""
UUIDS = {
    "sqlite": "printf('00000000-0000-0000-0000-%012d', n)",
    "postgresql": "('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid",
}


def shown(chronicle: Chronicle) -> str:
    """Return the picture, when events and totals have been written."""
    events = _Discarding()
    write_events(chronicle, events)
    summary = summarise(chronicle, 0)
    assert summary.conversations == summary.expired == events.lines - 1
    return draw_open_conversations(chronicle, 80)


class _Discarding(io.StringIO):
    """A file that remembers nothing but its number of lines."""

    lines = 0

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        return len(text)


def test_events_totals_and_chart_are_made_without_holding_them(database_url: str) -> None:
    with closing(ConversationService(database_url)) as service:
        assert service.next_deadlines().earliest is None
        chronicle, peaks = Chronicle(service.database), []
        shown(chronicle)
        for number in (FEW, MANY):
            run_sql(service.database, "DELETE FROM conversation_events")
            run_sql(service.database, "DELETE FROM conversations")
            run_sql(service.database, PAST.format(uuid=UUIDS[service.database.dialect]), conversations=number)
            run_sql(service.database, EVENTS)
            peaks.append(peak_of(lambda: shown(chronicle)))
        assert f"{MANY} █" in shown(chronicle)
        assert peaks[1] < peaks[0] + GROWTH_BYTES


@pytest.fixture
def replayed(tmp_path: Path) -> Callable[[Path], tuple[int, int]]:
    """Return a function that replays a log and says how many statements were run, and the peak of memory."""
    numbers = iter(range(100))

    def run(path: Path) -> tuple[int, int]:
        clock, statements = VirtualClock(), 0
        bind = Statement.bind

        def count(statement: Statement, values: Mapping[str, Any], *now: Any) -> dict[str, Any]:
            nonlocal statements
            statements += 1
            return bind(statement, values, *now)

        service = ConversationService(f"sqlite:///{tmp_path}/{next(numbers)}.db", clock=clock)
        with closing(service), closing(read_message_log(path)) as log:
            migrate(service.database)
            with mock.patch.object(Statement, "bind", count):
                peak = peak_of(lambda: replay(service, clock, log))
        return statements, peak

    return run


def test_as_many_deadlines_take_as_many_statements_however_far_apart(
    replayed: Callable[[Path], tuple[int, int]], tmp_path: Path
) -> None:
    """Each of 20 messages is idle, and expires, before the next one: over two months, or over two thousand years."""
    far, farther = (
        write_log(tmp_path / f"{gap.days}.csv", 20, gap, customers=20)
        for gap in (timedelta(days=3), timedelta(days=36_500))
    )
    assert replayed(far)[0] == replayed(farther)[0] < 20 * 100


def test_a_replay_holds_no_messages_and_no_transitions(
    replayed: Callable[[Path], tuple[int, int]], tmp_path: Path
) -> None:
    """The peak of a group varies by some 300 kB; 8,000 messages would be 4 MB."""
    sizes = (2 * GROUP, 2 * GROUP + 8_000)
    few, many = (write_log(tmp_path / f"{n}.csv", n, timedelta(minutes=2), customers=20) for n in sizes)
    replayed(few)
    assert replayed(many)[1] < replayed(few)[1] + 3 * GROWTH_BYTES

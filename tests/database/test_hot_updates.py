"""Messages on existing conversations are HOT updates on PostgreSQL: they write to no index at all."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from lapse import ConversationService, Database
from tests.support.backlog import BUSINESS, customer
from tests.support.sql import run_sql

CONVERSATIONS, MESSAGES_EACH = 200, 5


def updates(database: Database) -> tuple[int, int]:
    """Return how many updates there were, and how many of them were HOT."""
    (row,) = run_sql(
        database, "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'conversations'"
    )
    return row.n_tup_upd, row.n_tup_hot_upd


@pytest.mark.alone
def test_a_thousand_messages_are_a_thousand_hot_updates(postgres_url: str) -> None:
    with closing(ConversationService(postgres_url)) as service:
        for number in range(CONVERSATIONS):
            service.record_message(1, customer(number), BUSINESS)
        service.record_message(1, BUSINESS, customer(0), sender="agent")
    with closing(Database(postgres_url)) as observer:
        before = wait_for_updates(observer, 2)  # the answer's transition, and its activity
        with closing(ConversationService(postgres_url)) as service:
            for _ in range(MESSAGES_EACH):
                for number in range(CONVERSATIONS):
                    service.record_message(1, customer(number), BUSINESS)
        after = wait_for_updates(observer, before[0] + CONVERSATIONS * MESSAGES_EACH)
    assert after[0] - before[0] == CONVERSATIONS * MESSAGES_EACH
    assert after[1] - before[1] == CONVERSATIONS * MESSAGES_EACH


def wait_for_updates(database: Database, number: int) -> tuple[int, int]:
    """A closed session reports what it did a moment later."""
    deadline = time.monotonic() + 20
    while (found := updates(database))[0] < number and time.monotonic() < deadline:
        time.sleep(0.05)
    return found

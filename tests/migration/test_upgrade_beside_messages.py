"""The upgrade of a large table to version 0005: messages wait for moments only.

With `LAPSE_TEST_UPGRADE_ROWS` it is as large as one likes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from threading import Event, Thread
from time import monotonic
from typing import NamedTuple

import pytest

from lapse import Database, migrate
from lapse.store.operations.schema import head_version
from tests.adoption.legacy_table import connect
from tests.migration.older_schemas import migrated_to
from tests.support.sql import count, run_sql

ROWS = int(os.environ.get("LAPSE_TEST_UPGRADE_ROWS", "200000"))
OPEN_EVERY = 5
"""Each fifth conversation is open; of these each second one was answered."""
PAIRS = 4
"""Threads that write messages."""
LONGEST_SECONDS = 1.0
_FILL = """
    INSERT INTO conversations (owner_id, conv_id, channel, session_key, from_number, to_number, status, version,
        started_at, updated_at, last_inbound_at, ended_at, expires_at, idle_check_at, idle_timeout_seconds)
    SELECT n % 50, md5(n::text)::uuid, 'sms', '+1' || n || '::+2', '+1' || n, '+2',
        CASE WHEN n % {every} > 0 THEN 'agent_closed' WHEN n % {twice} = 0 THEN 'progress' ELSE 'pending' END,
        CASE WHEN n % {every} > 0 OR n % {twice} = 0 THEN 1 ELSE 0 END, t, t, t,
        CASE WHEN n % {every} > 0 THEN t END, t + interval '1 year', t + interval '1 year', 1800
    FROM generate_series(1, {rows}) AS n, LATERAL (SELECT now() - n * interval '1 second') AS times (t);
    INSERT INTO conversation_events (owner_id, conv_id, version, type, from_status, to_status, actor, occurred_at)
    SELECT owner_id, conv_id, 1, CASE status WHEN 'progress' THEN 'activated' ELSE 'closed' END, 'pending', status,
        'agent', started_at FROM conversations WHERE version = 1;
    ANALYZE conversations, conversation_events"""
# As lapse of version 0004 writes them.
_MESSAGE = """
    UPDATE conversations SET updated_at = greatest(updated_at, now()), last_inbound_at = now()
    WHERE (owner_id, channel, session_key) = (%(owner)s, 'sms', %(key)s)
        AND status IN ('pending', 'progress', 'idle_timeout')"""
_OPENING = """
    INSERT INTO conversations (owner_id, conv_id, channel, session_key, from_number, to_number, status, version,
        started_at, updated_at, last_inbound_at, expires_at, idle_check_at, idle_timeout_seconds)
    VALUES (%(owner)s, gen_random_uuid(), 'sms', %(new_key)s, 'a', 'b', 'pending', 0, now(), now(), now(),
        now() + interval '1 year', now() + interval '1 year', 1800)"""


class Beside(NamedTuple):
    """What happened beside the upgrade."""

    seconds: float
    """It took so long."""
    longest: float
    """Seconds of the message that took longest."""
    messages: int


def upgrade_beside_messages(database: Database, rows: int) -> Beside:
    """Upgrade a database that is written to all the time."""
    url = database.engine.url.render_as_string(hide_password=False)
    longest, numbers, stop = [0.0] * PAIRS, [0] * PAIRS, Event()

    def write(place: int) -> None:
        with connect(url) as connection:
            while not stop.is_set():
                numbers[place] += 1
                step = numbers[place] * PAIRS + place
                n = (step * 7919 * OPEN_EVERY) % rows + OPEN_EVERY
                values = {"owner": n % 50, "key": f"+1{n - n % OPEN_EVERY}::+2", "new_key": f"new {step}"}
                for statement in (_MESSAGE, _OPENING):
                    began = monotonic()
                    connection.execute(statement, values)
                    longest[place] = max(longest[place], monotonic() - began)

    threads = [Thread(target=write, args=[place]) for place in range(PAIRS)]
    for thread in threads:
        thread.start()
    began = monotonic()
    try:
        assert migrate(database).after == head_version()
        return Beside(monotonic() - began, max(longest), sum(numbers))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.alone
def test_messages_wait_for_moments_while_a_large_table_is_upgraded(
    empty_postgres_url: str, record_property: Callable[[str, object], None]
) -> None:
    with closing(migrated_to(empty_postgres_url, "0004")) as database:
        run_sql(database, _FILL.format(rows=ROWS, every=OPEN_EVERY, twice=2 * OPEN_EVERY))
        beside = upgrade_beside_messages(database, ROWS)
        record_property("beside", beside)
        assert beside.messages > PAIRS
        assert beside.longest < LONGEST_SECONDS, beside
        known = "conversations WHERE opened_by = 'user' AND session_key LIKE '+1%'"
        assert count(database, known) == ROWS // OPEN_EVERY
        answered = "conversations WHERE first_answered_at = started_at AND last_outbound_at = first_answered_at"
        assert count(database, answered) == ROWS // (2 * OPEN_EVERY)

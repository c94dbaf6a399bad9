"""Each statement on PostgreSQL goes by its index at 100,000 conversations: the very statements of the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa

from lapse import ConversationService, Message, PurgeResult
from lapse.models import MIN_DATETIME
from lapse.store.operations import due
from lapse.store.statements import Statement
from tests.support.backlog import BUSINESS, IDLE_TIMEOUT, customer
from tests.support.sql import run_sql
from tests.support.sweeps import sweep_armed_longer, sweep_expired, sweep_idle

ROWS = 100_000

# Of every hundred conversations one is idle, one is past its expiry, eight are open and not due, and ninety have ended.
FILL = f"""
    INSERT INTO conversations (
        owner_id, conv_id, channel, session_key, from_number, to_number, status, started_at, updated_at, ended_at,
        expires_at, idle_check_at, idle_timeout_seconds)
    SELECT n % 50, gen_random_uuid(), 'whatsapp', '{BUSINESS}::+5511' || n, '+5511' || n, '{BUSINESS}',
        CASE WHEN n % 100 < 10 THEN 'progress' ELSE 'expired' END,
        now() - interval '2 days', idle_check_at - interval '30 minutes',
        CASE WHEN n % 100 < 10 THEN NULL ELSE now() END,
        now() + CASE WHEN n % 100 = 1 THEN -1 ELSE 1 END * interval '1 hour' + n * interval '1 millisecond',
        idle_check_at, 1800
    FROM generate_series(1, {ROWS}) AS n, LATERAL (
        SELECT now() + CASE WHEN n % 100 = 0 THEN -1 ELSE 1 END * interval '1 hour' + n * interval '1 millisecond'
            AS idle_check_at) AS looks
"""


@pytest.fixture
def filled(postgres_url: str) -> Iterator[ConversationService]:
    with closing(ConversationService(postgres_url)) as service:
        service.next_deadlines()
        run_sql(service.database, FILL)
        with service.database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text("VACUUM ANALYZE conversations"))
        yield service


class Explainer:
    """Notes the statements that a call sends, and asks the server for their plans."""

    def __init__(self, service: ConversationService) -> None:
        self.engine = service.database.engine

    def plans(self, call: Callable[[], Any]) -> list[dict[str, Any]]:
        sent: list[tuple[str, Any]] = []
        bind = Statement.bind

        def note(statement: Statement, values: Any, *now: Any) -> dict[str, Any]:
            bound = bind(statement, values, *now)
            if "conversation" in statement.sql:
                sent.append((statement.sql, bound))
            return bound

        with mock.patch.object(Statement, "bind", note):
            call()
        assert sent
        return [self._plan(*statement) for statement in sent]

    def _plan(self, statement: str, parameters: Any) -> dict[str, Any]:
        with self.engine.connect() as connection:
            explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
        (plan,) = json.loads(explained) if isinstance(explained, str) else explained
        return dict(plan["Plan"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def indexes(plan: dict[str, Any]) -> set[str]:
    arbiters = {name for node in nodes(plan) for name in node.get("Conflict Arbiter Indexes", [])}
    return arbiters | {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


def assert_no_whole_table_is_read(plan: dict[str, Any]) -> None:
    read = [
        node for node in nodes(plan) if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "conversations"
    ]
    assert read == [], json.dumps(plan, indent=1)


def test_every_statement_goes_by_its_index(filled: ConversationService) -> None:
    service, explainer, database = filled, Explainer(filled), filled.database
    expected: dict[str, tuple[Callable[[], Any], list[str]]] = {
        "expired sweep": (lambda: sweep_expired(database, 100), ["ix_conversations_expires_at_open"]),
        "idle sweep": (
            lambda: sweep_idle(database, IDLE_TIMEOUT, 10_000),
            ["ix_conversations_idle_check_at_active"],
        ),
        "sweep of what was armed longer": (
            lambda: sweep_armed_longer(database, IDLE_TIMEOUT, 10_000),
            ["ix_conversations_idle_timeout_seconds_active"],
        ),
        "first message": (
            lambda: service.record_message(1, customer(0), BUSINESS),
            ["uq_conversations_open_session"],
        ),
        "answer, which is a transition": (
            lambda: service.record_message(1, BUSINESS, customer(0), sender="agent"),
            ["uq_conversations_open_session"],
        ),
        "next deadlines": (
            service.next_deadlines,
            ["ix_conversations_idle_check_at_active", "ix_conversations_expires_at_open"],
        ),
        "number of active conversations": (
            service.conversation_repo.count_active,
            ["ix_conversations_idle_check_at_active"],
        ),
        "number of due ones before a first cycle": (
            lambda: database.run(due.count_due_up_to, round(IDLE_TIMEOUT.total_seconds()), 10_000),
            ["ix_conversations_idle_check_at_active", "ix_conversations_expires_at_open"],
        ),
        "find expired": (service.find_expired_conversations, ["ix_conversations_expires_at_open"]),
        "find idle": (service.find_idle_conversations, ["ix_conversations_idle_check_at_active"]),
        "history": (
            lambda: service.get_conversation_history(1, customer(0), BUSINESS),
            ["ix_conversations_session_history_not_open", "uq_conversations_open_session"],
        ),
    }
    for name, (call, wanted) in expected.items():
        plans = explainer.plans(call)
        for plan in plans:
            assert_no_whole_table_is_read(plan)
        used = set[str]().union(*(indexes(plan) for plan in plans))
        assert used >= set(wanted), f"{name}: {sorted(used)}"


@pytest.mark.parametrize("together", [2, 64, 500])
@pytest.mark.parametrize("has_ids", [False, True], ids=["without ids", "with ids"])
def test_messages_together_go_by_the_index_of_open_pairs(
    filled: ConversationService, together: int, has_ids: bool
) -> None:
    """Those that continue conversations, those that find none, and answers, which are transitions."""

    def of(first: int, sender: str = "user") -> list[Message]:
        pairs = [(f"+5511{n}", BUSINESS) for n in range(first, first + 100 * together, 100)]
        return [
            Message(
                int(customer[5:]) % 50,
                *((customer, other) if sender == "user" else (other, customer)),
                sender=sender,
                message_id=f"{sender} {customer}" if has_ids else None,
            )
            for customer, other in pairs
        ]

    explainer = Explainer(filled)
    for messages in (of(2), of(2, "agent"), of(50), of(50, "agent")):
        plans = explainer.plans(lambda messages=messages: filled.record_messages(messages))  # type: ignore[misc]
        for plan in plans:
            assert_no_whole_table_is_read(plan)
        assert "uq_conversations_open_session" in set[str]().union(*map(indexes, plans))


def test_one_conversation_is_found_by_its_id(filled: ConversationService) -> None:
    opened = filled.record_message(1, customer(0), BUSINESS)
    calls: list[Callable[[], Any]] = [
        lambda: filled.get_conversation_by_id(opened.conv_id),
        lambda: filled.get_conversation_by_id(opened.conv_id, owner_id=1),
        lambda: filled.extend_expiration(opened.conv_id, 5),
        lambda: filled.close_conversation(opened.conv_id, "user_closed", owner_id=1),
    ]
    for call in calls:
        for plan in Explainer(filled).plans(call):
            assert_no_whole_table_is_read(plan)
            # The id alone is as good as unique, so the planner may take either.
            assert indexes(plan) <= {"pk_conversations", "ix_conversations_conv_id", "pk_conversation_events"}


def test_what_a_sweep_reads_follows_what_is_due(filled: ConversationService) -> None:
    """A thousand are idle, so a sweep of a hundred must look at little more than a hundred rows."""
    read: list[int] = []
    for _ in range(3):
        before = tuples_read(filled)
        assert filled.process_idle_conversations(limit=100) == 100
        read.append(tuples_read(filled) - before)
    assert 100 <= min(read) <= max(read) < 500, read


@pytest.mark.parametrize("task", ["idle", "expired"])
def test_a_sweep_reads_no_more_where_there_are_no_statistics(postgres_url: str, task: str) -> None:
    """As after a large import: everything is due, and nobody has looked at the table yet."""
    with closing(ConversationService(postgres_url)) as service:
        run_sql(service.database, "ALTER TABLE conversations SET (autovacuum_enabled = off)")
        # Of every hundred the one that is idle, or the one that is past its expiry, is all of them.
        run_sql(service.database, FILL.replace("n % 100", "0" if task == "idle" else "1"))
        sweep = partial(sweep_idle, idle_timeout=IDLE_TIMEOUT) if task == "idle" else sweep_expired
        after, read = MIN_DATETIME, list[int]()
        for _ in range(3):
            before = tuples_read(service)
            result = sweep(service.database, limit=100, after=after)
            assert result.ended == 100
            after = result.last_deadline or after
            read.append(tuples_read(service) - before)
    assert 100 <= min(read) <= max(read) < 500, read


def tuples_read(service: ConversationService) -> int:
    # On the connection that has swept: each one tells its own numbers, and otherwise only now and then.
    service.database.autocommit(lambda connection: connection.driver.execute("SELECT pg_stat_force_next_flush()"))
    (row,) = run_sql(
        service.database,
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) AS read FROM pg_stat_user_tables "
        "WHERE relname = 'conversations'",
    )
    return int(row.read)


# --- purges: their own table, in which conversations ended over the last hundred days -------------------------------

ENDED = f"""
    INSERT INTO conversations (
        owner_id, conv_id, channel, session_key, from_number, to_number, status, version, started_at, updated_at,
        ended_at, expires_at, idle_check_at, idle_timeout_seconds)
    SELECT n % 50, gen_random_uuid(), 'whatsapp', '{BUSINESS}::+5511' || n, '+5511' || n, '{BUSINESS}',
        'expired', 2, ended_at, ended_at, ended_at, ended_at, ended_at, 1800
    FROM generate_series(1, {ROWS}) AS n, LATERAL (
        SELECT now() - n * interval '100 days' / {ROWS} AS ended_at) AS ends
"""
ENDED_EVENTS = """
    INSERT INTO conversation_events (owner_id, conv_id, version, type, from_status, to_status, occurred_at)
    SELECT owner_id, conv_id, place, 'expired', 'idle_timeout', 'expired', ended_at
    FROM conversations, generate_series(1, 2) AS place
"""


@pytest.fixture
def ended(postgres_url: str) -> Iterator[ConversationService]:
    with closing(ConversationService(postgres_url)) as service:
        service.next_deadlines()
        run_sql(service.database, ENDED)
        run_sql(service.database, ENDED_EVENTS)
        with service.database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text("VACUUM ANALYZE conversations, conversation_events"))
            # This connection has read the whole table to make the events; told later, it would count for a batch.
            connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
        yield service


def test_every_statement_of_a_purge_goes_by_its_index(ended: ConversationService) -> None:
    """In batches of a hundred: for a thousand rows of so small a table its planner may read all of it, and rightly."""
    purger, explainer = ended.conversation_repo.purger, Explainer(ended)
    for call in (lambda: purger.preview(97), lambda: purger.preview(3), lambda: purger.purge(97, batch_size=100)):
        for plan in explainer.plans(call):
            scans = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
            assert scans == [], json.dumps(plan, indent=1)
            assert "ix_conversations_ended_at_closed" in indexes(plan)


def test_what_a_purge_reads_follows_what_it_deletes(ended: ConversationService) -> None:
    """Some three thousand are old enough, so a batch of a hundred must look at little more than a hundred rows."""
    purger, read = ended.conversation_repo.purger, list[int]()
    before = tuples_read(ended)

    def note(_done: PurgeResult) -> None:
        nonlocal before
        after = tuples_read(ended)
        read.append(after - before)
        before = after

    assert purger.purge(97, batch_size=100, on_batch=note).conversations >= 3_000
    assert max(read) < 500, read

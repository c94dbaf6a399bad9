"""Receipts whose conversation turns out to be another one: somebody else opened it, or there is none."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
from sqlalchemy import make_url

from lapse import ConversationService, Database, MessageResult
from tests.concurrency.callers import message_of, plain
from tests.concurrency.test_waiting_calls import wait_for_waiters
from tests.support.backlog import BUSINESS, customer
from tests.support.invariants import check_invariants
from tests.support.sql import run_sql

SLOW_EVENTS = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NEW; END'",
    "CREATE TRIGGER slow BEFORE INSERT ON conversation_events FOR EACH ROW EXECUTE FUNCTION slow()",
)
OPEN_ANOTHER = (
    "INSERT INTO conversations SELECT (c).* FROM (SELECT jsonb_populate_record(c, jsonb_build_object("
    "'conv_id', gen_random_uuid(), 'session_key', %s::text)) AS c FROM conversations AS c) AS changed"
)
LOCK = "SELECT conv_id FROM conversations WHERE session_key = %s FOR UPDATE"


def test_a_message_whose_pair_is_opened_and_locked_by_others_is_recorded_once(postgres_url: str) -> None:
    session_key = "::".join(sorted([BUSINESS, customer(1)]))
    with (
        closing(ConversationService(postgres_url)) as service,
        ThreadPoolExecutor() as threads,
        psycopg.connect(plain(postgres_url)) as opens,
        psycopg.connect(plain(postgres_url)) as locks,
    ):
        service.record(message_of(2))
        for statement in SLOW_EVENTS:
            run_sql(service.database, statement)
        opens.execute(OPEN_ANOTHER, [session_key])
        group = [message_of(1, message_id="one"), message_of(2, sender="agent", message_id="two")]
        call = threads.submit(service.record_messages, group)
        wait_for_waiters(postgres_url)
        opens.commit()
        ((conv_id,),) = locks.execute(LOCK, [session_key]).fetchall()  # while the group writes its event, slowly
        time.sleep(1.5)
        locks.rollback()
        one, two = call.result()
        assert isinstance(one, MessageResult)
        assert isinstance(two, MessageResult)
        assert (one.outcome, two.outcome) == ("continued", "answered")
        assert one.conversation is not None
        assert one.conversation.conv_id == conv_id
        receipts = run_sql(service.database, "SELECT conv_id FROM message_receipts WHERE message_id = 'one'")
        assert receipts == [(conv_id,)]
        assert service.record(message_of(1, message_id="one")).outcome == "copy"
        check_invariants(service.database)


def test_a_role_that_may_not_update_receipts_moves_one(postgres_url: str) -> None:
    """The rights are those that a role is given by an upgrade; what is late belongs to no conversation after all."""
    role = f"app_{uuid4().hex}"
    app_url = make_url(postgres_url).set(username=role, password=role).render_as_string(hide_password=False)
    with closing(ConversationService(postgres_url)) as owner:
        give_rights(owner.database, role)
        try:
            with closing(ConversationService(app_url)) as service:
                late = replace(message_of(1, message_id="late"), sent_at=datetime.now(UTC) - timedelta(days=9))
                assert service.record(late).outcome == "late"
                assert service.record(late).outcome == "copy"
        finally:
            run_sql(owner.database, f"DROP OWNED BY {role}")
            run_sql(owner.database, f"DROP ROLE {role}")
        assert run_sql(owner.database, "SELECT message_id, conv_id FROM message_receipts") == [("late", None)]
        check_invariants(owner.database)


def give_rights(database: Database, role: str) -> None:
    """Let a new role record messages, and nothing else."""
    run_sql(database, f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    rights = {
        "conversations": "SELECT, INSERT, UPDATE",
        "conversation_events": "SELECT, INSERT",
        "message_receipts": "SELECT, INSERT, DELETE",
        "lapse_schema_version": "SELECT",
    }
    for table, granted in rights.items():
        run_sql(database, f"GRANT {granted} ON {table} TO {role}")
        run_sql(database, f"CREATE POLICY {role} ON {table} TO {role} USING (true) WITH CHECK (true)")

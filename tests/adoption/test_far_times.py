"""Times that no calendar of Python holds: `infinity` is a common way to say that a conversation never expires."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta

from lapse import ConversationService
from lapse.models import NEVER
from tests.adoption.adoption_helpers import adopt
from tests.adoption.legacy_table import Form, connect, create_legacy_table
from tests.support.sweeps import sweep_idle

IDLE = timedelta(minutes=30)
PAIRS = ("+5511999990001", "+5511999990002", "+5511999990003")


def test_conversations_that_last_for_ever_are_read_continued_and_looked_at(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as application:
        create_legacy_table(application)
        for number, expires_at in zip(PAIRS, ("infinity", "20000-01-01", "9999-12-31T23:00Z"), strict=True):
            application.execute(
                """INSERT INTO conversations (owner_id, from_number, to_number, status, started_at, expires_at)
                VALUES (1, %s, '+14155238886', 'progress', '0044-03-15 BC', %s)""",
                [number, expires_at],
            )
        adopt(empty_postgres_url)
        with closing(ConversationService(empty_postgres_url)) as service:
            deadlines = service.next_deadlines()
            found = [service.record_message(1, number, "+14155238886", sender="user") for number in PAIRS]
            extended = service.extend_expiration(found[0].conv_id, minutes=30)
        kept = application.execute("SELECT count(*) FROM conversations WHERE status = 'progress'").fetchall()
    expired_at = deadlines.due_at["expired_conversations"]
    assert expired_at == datetime(9999, 12, 31, 23, tzinfo=UTC)
    assert [one.expires_at for one in found] == [NEVER, NEVER, expired_at]
    assert {one.started_at for one in found} == {datetime.min.replace(tzinfo=UTC)}
    assert extended.expires_at == NEVER
    assert kept == [(3,)]


def test_an_activity_in_the_future_that_is_put_right_is_idle_in_time(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as application:
        create_legacy_table(application, Form(updated_at_trigger=False))
        adopt(empty_postgres_url)
        application.execute(
            """INSERT INTO conversations (owner_id, from_number, to_number, status, updated_at)
            VALUES (1, '+5511999990001', '+14155238886', 'progress', 'infinity')"""
        )
        application.execute("UPDATE conversations SET idle_check_at = now() - interval '1 second'")
        with closing(ConversationService(empty_postgres_url)) as service:
            assert sweep_idle(service.database, IDLE, 10).rearmed == 1
            application.execute("UPDATE conversations SET updated_at = now()")
            deadlines = service.next_deadlines()
    idle_at = deadlines.due_at["idle_conversations"]
    assert idle_at is not None
    assert idle_at - deadlines.now <= IDLE

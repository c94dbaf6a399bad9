"""Rows that other hands have written: operators edit times by SQL, applications leave out what has a default."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

import pytest

from lapse import BackgroundWorker, ConversationService
from tests.conftest import OpenService
from tests.support.sql import run_sql
from tests.support.sweeps import sweep_idle

CUSTOMER, BUSINESS = "+5511999999999", "+14155238886"
OLD_TIMES = ["2020-01-01T00:00:00Z", "2020-01-01T00:00:00+00:00", "2020-01-01 00:00:00", "2019-12-31T21:00:00-03:00"]


@pytest.fixture
def on_own_clock(database_url: str, open_service: OpenService) -> ConversationService:
    return open_service(database_url)


@pytest.mark.parametrize("moment", [*OLD_TIMES, "2020-01-01"])
def test_an_expiry_set_by_sql_is_acted_on(on_own_clock: ConversationService, moment: str) -> None:
    service = on_own_clock
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    run_sql(service.database, f"UPDATE conversations SET expires_at = '{moment}'")
    worker = BackgroundWorker(service=service)
    assert worker.run_task("expired_conversations").ended == 1
    ended = service.get_conversation_by_id(opened.conv_id)
    assert ended.status == "expired"
    assert ended.ended_at is not None
    assert ended.ended_at.year >= 2026
    (event,) = service.get_conversation_events(opened.conv_id)
    assert event.deadline is not None
    assert event.deadline.astimezone(UTC).year in (2019, 2020)


@pytest.mark.parametrize("moment", OLD_TIMES)
def test_an_activity_set_back_by_sql_is_seen_when_its_look_comes(
    on_own_clock: ConversationService, moment: str
) -> None:
    service = on_own_clock
    opened = service.create_conversation(1, CUSTOMER, BUSINESS)
    run_sql(service.database, f"UPDATE conversations SET updated_at = '{moment}', idle_check_at = '{moment}'")
    assert service.process_idle_conversations() == 1
    (event,) = service.get_conversation_events(opened.conv_id)
    assert event.deadline is not None
    assert event.deadline < datetime(2020, 1, 2, tzinfo=UTC)
    assert service.record_message(1, CUSTOMER, BUSINESS).status == "pending"


def test_an_activity_infinitely_long_ago_is_idle_and_has_no_lag(postgres_url: str) -> None:
    with closing(ConversationService(postgres_url)) as service:
        service.create_conversation(1, CUSTOMER, BUSINESS)
        run_sql(service.database, "UPDATE conversations SET updated_at = '-infinity', idle_check_at = started_at")
        result = sweep_idle(service.database, service.idle_timeout(), 10)
        assert (result.ended, result.lags_seconds) == (1, ())
        assert [row.status for row in run_sql(service.database, "SELECT status FROM conversations")] == ["idle_timeout"]


def test_a_row_that_was_deleted_leaves_the_rest_to_work(on_own_clock: ConversationService) -> None:
    service = on_own_clock
    first = service.record_message(1, CUSTOMER, BUSINESS)
    run_sql(service.database, "DELETE FROM conversations")
    second = service.record_message(1, CUSTOMER, BUSINESS)
    assert first.conv_id != second.conv_id


def test_a_status_that_does_not_exist_is_refused_by_the_database(on_own_clock: ConversationService) -> None:
    service = on_own_clock
    opened = service.record_message(1, CUSTOMER, BUSINESS)
    with pytest.raises(Exception, match="ck_conversations_status") as caught:
        run_sql(service.database, "UPDATE conversations SET status = 'resting'")
    assert CUSTOMER not in str(caught.value)
    assert service.get_conversation_by_id(opened.conv_id).status == "pending"


def test_two_open_conversations_of_one_pair_are_refused_by_the_database(on_own_clock: ConversationService) -> None:
    service = on_own_clock
    first = service.record_message(1, CUSTOMER, BUSINESS)
    service.close_conversation(first.conv_id, "user_closed")
    service.record_message(1, CUSTOMER, BUSINESS)
    with pytest.raises(Exception, match=r"uq_conversations_open_session|UNIQUE constraint") as caught:
        run_sql(service.database, "UPDATE conversations SET status = 'idle_timeout' WHERE status = 'user_closed'")
    assert CUSTOMER not in str(caught.value)

"""A table that an older lapse adopted gets what lapse has had since, and the application goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

import pytest

from lapse import BackgroundWorker, ConversationService, Database, migrate
from lapse.errors import AdoptionError
from lapse.store import schema_version
from lapse.store.migrate import MigrationResult
from lapse.store.operations.schema import head_version
from tests.adoption.adoption_helpers import LegacyConnection, adopt, error_codes, values
from tests.adoption.legacy_table import connect
from tests.support.commands import run_here

OLDER = (Path(__file__).parent / "adopted_by_0004.sql").read_text(encoding="utf-8")
OWNER = "2e33e5ac-092c-57a9-d0a0-6869fcc83c71"
COLUMNS = """
    SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attname"""
NEW = {
    "lapse_policy_id": "bigint",
    "opened_by": "text",
    "last_outbound_at": "timestamp with time zone",
    "first_answered_at": "timestamp with time zone",
    "hold_until": "timestamp with time zone",
    "reminders_sent": "bigint",
    "reminded_at": "timestamp with time zone",
}
LONGEST_SECONDS = 1.0


@pytest.fixture
def older(empty_postgres_url: str) -> Iterator[LegacyConnection]:
    """Return the application's connection to a table that lapse of schema version 0004 adopted."""
    with connect(empty_postgres_url) as connection:
        connection.execute(OLDER.encode())
        yield connection


def upgrade(url: str) -> MigrationResult:
    with closing(Database(url)) as database:
        return migrate(database)


def columns(connection: LegacyConnection, table: str = "conversations") -> dict[str, str]:
    return dict(values(connection, COLUMNS, table))


def opened(connection: LegacyConnection, status: str) -> str:
    """Open a conversation as the application does; return its id."""
    (conv_id,) = values(
        connection,
        "INSERT INTO conversations (conv_id, owner_id, from_number, to_number, status, started_at, expires_at) "
        "VALUES ('01JZ' || gen_random_uuid(), %s, '+5511988887777', '+14155238886', %s, '2026-01-01Z', 'infinity') "
        "RETURNING conv_id",
        OWNER,
        status,
    )
    return str(conv_id)


def first_answered(connection: LegacyConnection, conv_id: str) -> Any:
    (moment,) = values(connection, "SELECT first_answered_at FROM conversations WHERE conv_id = %s", conv_id)
    return moment


def test_what_is_new_is_added_beside_the_applications_own_columns(
    older: LegacyConnection, empty_postgres_url: str
) -> None:
    before, rows = (
        columns(older),
        "SELECT conv_id, status, policy_id, version, session_key FROM conversations ORDER BY 1",
    )
    kept = values(older, rows)
    keys = values(older, "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' ORDER BY 1")
    result = upgrade(empty_postgres_url)
    assert (result.before, result.after) == ("0004", head_version())
    assert columns(older) == before | NEW
    assert values(older, rows) == kept
    receipts = columns(older, "message_receipts")
    assert (receipts["owner_id"], receipts["conv_id"]) == ("uuid", "text")
    after = values(older, "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' ORDER BY 1")
    assert [key for key in after if key[0] != "pk_message_receipts"] == keys
    assert error_codes(empty_postgres_url) == []
    assert not upgrade(empty_postgres_url).changed
    assert adopt(empty_postgres_url).done == []


def test_the_application_that_answers_sets_the_moment_once(older: LegacyConnection, empty_postgres_url: str) -> None:
    upgrade(empty_postgres_url)
    answered = opened(older, "progress")
    assert first_answered(older, answered) == datetime(2026, 1, 1, tzinfo=UTC)
    waiting = opened(older, "pending")
    assert first_answered(older, waiting) is None
    older.execute("UPDATE conversations SET context = '{}' WHERE conv_id = %s", [waiting])
    assert first_answered(older, waiting) is None
    older.execute(
        "UPDATE conversations SET status = 'progress', updated_at = '2026-02-02Z' WHERE conv_id = %s", [waiting]
    )
    moment = first_answered(older, waiting)
    assert moment is not None
    older.execute("UPDATE conversations SET status = 'pending' WHERE conv_id = %s", [waiting])
    older.execute("UPDATE conversations SET status = 'progress' WHERE conv_id = %s", [waiting])
    assert first_answered(older, waiting) == moment


def test_what_lapse_writes_is_left_to_lapse(older: LegacyConnection, empty_postgres_url: str) -> None:
    upgrade(empty_postgres_url)
    waiting = opened(older, "pending")
    older.execute("UPDATE conversations SET status = 'progress', version = version + 1 WHERE conv_id = %s", [waiting])
    assert first_answered(older, waiting) is None


def test_an_old_row_written_back_does_not_undo_what_lapse_has_done(
    older: LegacyConnection, empty_postgres_url: str
) -> None:
    upgrade(empty_postgres_url)
    conv_id = opened(older, "pending")
    older.execute(
        "UPDATE conversations SET version = 3, hold_until = '2030-01-01Z', lapse_policy_id = 7 WHERE conv_id = %s",
        [conv_id],
    )
    older.execute(
        "UPDATE conversations SET version = 0, hold_until = NULL, lapse_policy_id = NULL WHERE conv_id = %s", [conv_id]
    )
    kept = "SELECT version, hold_until IS NOT NULL, lapse_policy_id FROM conversations WHERE conv_id = %s"
    assert values(older, kept, conv_id) == [(3, True, 7)]


def test_lapse_works_with_it(older: LegacyConnection, empty_postgres_url: str) -> None:
    upgrade(empty_postgres_url)
    with closing(ConversationService(empty_postgres_url)) as service:
        waiting = service.record_message(OWNER, "+5511977776666", "+14155238886")
        answer = service.record_message(OWNER, "+14155238886", "+5511977776666", sender="agent")
        assert (answer.conv_id, answer.status) == (waiting.conv_id, "progress")
        assert all(run.error is None for run in BackgroundWorker(service=service).run_cycle())
        service.close_conversation(waiting.conv_id, "agent_closed")


def test_a_table_of_receipts_that_is_the_applications_is_left_alone(
    older: LegacyConnection, empty_postgres_url: str
) -> None:
    older.execute("CREATE TABLE message_receipts (id int)")
    before = columns(older)
    with pytest.raises(AdoptionError, match="message_receipts that lapse did not make; nothing was changed: rename it"):
        upgrade(empty_postgres_url)
    assert columns(older) == before
    with closing(Database(empty_postgres_url)) as database:
        assert schema_version(database) == "0004"


@pytest.mark.parametrize("is_upgraded", [True, False])
def test_unadopt_takes_off_what_an_older_and_this_lapse_put_on(
    older: LegacyConnection, empty_postgres_url: str, *, is_upgraded: bool
) -> None:
    if is_upgraded:
        upgrade(empty_postgres_url)
    assert run_here("unadopt", "--export", "events.csv", "--database-url", empty_postgres_url).returncode == 0
    left = columns(older)
    assert left["policy_id"] == "text"
    assert left.keys().isdisjoint({*NEW, "session_key", "version", "last_inbound_at", "idle_check_at"})
    assert columns(older, "message_receipts") == {}
    older.execute("UPDATE conversations SET status = 'progress'")


def test_an_adoption_that_an_older_lapse_began_gets_it_too(older: LegacyConnection, empty_postgres_url: str) -> None:
    older.execute("DROP TABLE lapse_schema_version; UPDATE lapse_adoption SET completed_at = NULL")
    assert "repair" in adopt(empty_postgres_url).done
    assert columns(older).items() >= NEW.items()
    assert error_codes(empty_postgres_url) == []


def test_roles_of_the_application_may_use_the_receipts(older: LegacyConnection, empty_postgres_url: str) -> None:
    role = "lapse_test_upgraded"
    older.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role}".encode())
    try:
        older.execute(f"GRANT SELECT, INSERT ON conversation_events TO {role}".encode())
        upgrade(empty_postgres_url)
        older.execute(f"SET ROLE {role}".encode())
        older.execute("INSERT INTO message_receipts VALUES (gen_random_uuid(), 'sms', 'm', 'c', now())")
        assert values(older, "SELECT count(*) FROM message_receipts") == [1]
    finally:
        older.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_the_application_waits_for_moments_only(older: LegacyConnection, empty_postgres_url: str) -> None:
    longest, stop = 0.0, Event()

    def write() -> None:
        nonlocal longest
        with connect(empty_postgres_url) as application:
            while not stop.is_set():
                began = monotonic()
                application.execute("UPDATE conversations SET context = context")
                longest = max(longest, monotonic() - began)

    with connect(empty_postgres_url) as report:
        report.execute("BEGIN; SELECT count(*) FROM conversations")
        upgrading, writing = Thread(target=upgrade, args=[empty_postgres_url]), Thread(target=write)
        writing.start()
        upgrading.start()
        sleep(2)
        assert upgrading.is_alive()
        report.execute("COMMIT")
        upgrading.join(timeout=30)
        stop.set()
        writing.join()
    assert columns(older).items() >= NEW.items()
    assert longest < LONGEST_SECONDS

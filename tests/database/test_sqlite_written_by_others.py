"""SQLite keeps whatever others write: what lapse cannot read stops nobody else, nor leaves an event alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lapse import ConversationService, Database, DatabaseError
from lapse.models import MIN_DATETIME, NEVER
from lapse.store.types import utc_text
from tests.support.backlog import insert_conversations
from tests.support.commands import run_here
from tests.support.invariants import check_invariants
from tests.support.sql import count, run_sql
from tests.support.workers import EXPIRED, IDLE, counts, worker_on


@pytest.fixture
def url(new_database: Callable[..., str]) -> str:
    return new_database("sqlite")


@pytest.fixture
def file(url: str) -> Iterator[Database]:
    with closing(Database(url)) as database:
        yield database


@pytest.mark.parametrize("column", ["idle_check_at", "updated_at"])
@pytest.mark.parametrize("value", ["unixepoch()", "''", "'garbage'", "'2020-13-45'", "'9999-12-31 23:59:59'"])
def test_a_time_that_is_none_stops_nobody_else(file: Database, url: str, column: str, value: str) -> None:
    ids = insert_conversations(file, range(5), silent_for=timedelta(hours=2))
    run_sql(file, f"UPDATE conversations SET {column} = {value} WHERE conv_id = '{ids[2]}'")
    with worker_on(url) as worker:
        assert worker.run_task(IDLE).error is None
        assert counts(file)["idle_timeout"] >= 4


@pytest.mark.parametrize("value", ["'garbage'", "''", "x'00'", "1e30", "-1"])
def test_an_idle_timeout_that_is_none_stops_nobody(file: Database, url: str, value: str) -> None:
    ids = insert_conversations(file, range(5), silent_for=timedelta(hours=2))
    run_sql(file, f"UPDATE conversations SET idle_timeout_seconds = {value} WHERE conv_id = '{ids[2]}'")
    with worker_on(url) as worker:
        deadlines = worker.conversation_service.next_deadlines()
        assert worker.run_task(IDLE, deadlines).error is None
        assert counts(file)["idle_timeout"] == 5


@pytest.mark.parametrize(("word", "moment"), [("infinity", NEVER), ("-infinity", MIN_DATETIME)])
def test_postgresqls_words_for_times_are_read_as_there(file: Database, word: str, moment: datetime) -> None:
    (far, _) = insert_conversations(file, range(2))
    run_sql(file, f"UPDATE conversations SET expires_at = '{word}' WHERE conv_id = '{far}'")
    with closing(ConversationService(file)) as service:
        assert service.get_conversation_by_id(far).expires_at == moment
        assert len(service.get_active_conversations(1)) == 2
        if moment == NEVER:
            assert service.process_expired_conversations() == 0
            assert service.extend_expiration(far, 5).expires_at == NEVER
            assert service.close_conversation(far, "user_closed").expires_at == NEVER
    check_invariants(file)


@pytest.mark.parametrize("command", [["status"], ["migrate"], ["worker", "--once"], ["doctor"], ["preview"]])
@pytest.mark.parametrize("kind", ["foreign", "empty"])
def test_a_file_that_is_not_lapses_stays_as_it_is(tmp_path: Path, command: list[str], kind: str) -> None:
    path = tmp_path / "chat.db"
    with closing(sqlite3.connect(path)) as other, other:
        if kind == "foreign":
            other.execute("CREATE TABLE conversations (id integer)")
    path.touch()
    before = path.read_bytes()
    result = run_here(*command, "--database-url", f"sqlite:///{path}")
    is_made = kind == "empty" and command[0] in ("migrate", "worker")
    assert (result.returncode == 0) is is_made, result
    assert (path.read_bytes() == before) is not is_made
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal" if is_made else "delete",)


def test_a_copy_without_a_write_ahead_log_gets_one_again(file: Database, url: str) -> None:
    file.close()
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    with closing(ConversationService(url)) as service:
        service.next_deadlines()
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_value_that_cannot_be_read_is_a_clear_error(file: Database, url: str) -> None:
    (conv_id,) = insert_conversations(file, range(1))
    run_sql(file, "UPDATE conversations SET metadata = 'no JSON'")
    with worker_on(url) as worker, pytest.raises(DatabaseError, match="column metadata"):
        worker.conversation_service.get_conversation_by_id(conv_id)


def test_a_trigger_that_ignores_an_update_leaves_no_event(file: Database, url: str) -> None:
    insert_conversations(file, range(5), expires_in=-timedelta(minutes=1))
    run_sql(
        file,
        "CREATE TRIGGER keep BEFORE UPDATE ON conversations WHEN old.from_number LIKE '%2' "
        "BEGIN SELECT RAISE(IGNORE); END",
    )
    with worker_on(url) as worker:
        run = worker.run_task(EXPIRED)
        assert (run.ended, run.refused, run.error) == (4, 1, None)
    assert count(file, "conversation_events") == 4
    check_invariants(file)


@pytest.mark.parametrize(
    "arming",
    ["idle_check_at = '2020-01-01 00:00:00'", "idle_check_at = '9000-01-01 00:00:00', idle_timeout_seconds = 999999"],
)
def test_a_trigger_that_ignores_a_new_arming_stops_nobody_else(file: Database, url: str, arming: str) -> None:
    ids = insert_conversations(file, range(8), silent_for=timedelta(hours=2))
    lively = ", ".join(f"'{conv_id}'" for conv_id in ids[:5])
    now = utc_text(datetime.now(UTC))
    run_sql(file, f"UPDATE conversations SET updated_at = '{now}', {arming} WHERE conv_id IN ({lively})")
    run_sql(
        file,
        f"CREATE TRIGGER keep BEFORE UPDATE ON conversations WHEN old.conv_id IN ({lively}) "
        "BEGIN SELECT RAISE(IGNORE); END",
    )
    with worker_on(url, batch_size=2) as worker:
        run = worker.run_task(IDLE)
        assert (run.ended, run.refused, run.error) == (3, 5, None)
        assert worker.run_task(IDLE).refused == 0, "they rest"
    assert count(file, "conversation_events") == 3
    check_invariants(file)

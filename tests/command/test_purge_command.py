"""`lapse purge`: what it says, what it refuses, and what a stop or a kill in the middle leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from lapse import ConversationService, Database
from lapse.shutdown import STOP_GRACE_SECONDS
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.closed_conversations import insert_closed
from tests.support.commands import LAPSE, environment, error_line, run_here, run_lapse, run_program
from tests.support.invariants import check_invariants
from tests.support.sql import count, run_sql, transaction
from tests.support.terminal import run_with_terminal_for_errors
from tests.support.waiting import until_waited_for_a_lock

DAY = timedelta(days=1)
OLD, BATCH = 3_000, 50


@pytest.fixture
def filled(database: Database) -> Database:
    """Return a database with five old conversations, three that ended lately, and two open ones."""
    insert_closed(database, range(5), ended_ago=40 * DAY)
    insert_closed(database, range(5, 8), ended_ago=20 * DAY, status="expired")
    insert_conversations(database, range(10, 12), silent_for=90 * DAY, expires_in=-80 * DAY)
    return database


def counts(database: Database) -> tuple[int, int]:
    """Return how many conversations and events there are, without SQLite's write lock, which a purge may hold."""
    counted = "SELECT (SELECT count(*) FROM conversations), (SELECT count(*) FROM conversation_events)"
    row = database.inspect(lambda connection: connection.exec_driver_sql(counted).one())
    return row[0], row[1]


def test_a_dry_run_says_what_would_go_and_changes_nothing(filled: Database, database_url: str) -> None:
    text = run_here("purge", "--closed-before", "30", "--dry-run", "--database-url", database_url)
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout.startswith("would delete 5 conversations and 5 events (ended from 20")
    assert text.stdout.endswith("Z); nothing was changed\n")
    found = json.loads(
        run_here("purge", "--closed-before", "30", "--dry-run", "--json", "--database-url", database_url).stdout
    )
    assert (found["dry_run"], found["conversations"], found["events"]) == (True, 5, 5)
    assert found["oldest"] < found["newest"] < found["closed_before"]
    assert counts(filled) == (10, 8)


def test_a_purge_says_what_it_deleted_and_leaves_the_young_and_the_open(filled: Database, database_url: str) -> None:
    result = run_here("purge", "--closed-before", "30", "--database-url", database_url)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("deleted 5 conversations and 5 events (ended from 20")
    assert result.stdout.endswith(" s\n")
    statuses = run_sql(filled, "SELECT status, count(*) FROM conversations GROUP BY status ORDER BY status")
    assert [tuple(row) for row in statuses] == [("expired", 3), ("pending", 2)]
    assert counts(filled) == (5, 3)
    check_invariants(filled)
    again = json.loads(run_here("purge", "--closed-before", "30", "--json", "--database-url", database_url).stdout)
    assert (again["conversations"], again["events"], again["oldest"], again["is_complete"]) == (0, 0, None, True)
    one = json.loads(run_here("purge", "--closed-before", "10.5", "--json", "--database-url", database_url).stdout)
    assert (one["conversations"], one["dry_run"], one["seconds"] > 0) == (3, False, True)
    assert (datetime.fromisoformat(one["closed_before"]) - datetime.fromisoformat(one["newest"])) > 9 * DAY


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--closed-before"),
        (["--closed-before", "0"], "closed before 0 days"),
        (["--closed-before", "-7"], "closed before -7 days"),
        (["--closed-before", "nan"], "closed before nan days"),
        (["--closed-before", "36501"], "at most 36500"),
        (["--closed-before", "soon"], "--closed-before"),
        (["--closed-before", "9", "--batch-size", "0"], "batch size"),
        (["--closed-before", "9", "--batch-size", "1001"], "batch size"),
        (["--closed-before", "9", "--max-rate", "0"], "rate"),
        (["--closed-before", "9", "--dry-run", "--max-rate", "nan"], "rate"),
        (["--closed-before", "9", "--database-url", "mysql://me:hunter2@db/chat"], "mysql"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], named: str, tmp_path: Path) -> None:
    line = error_line(run_here("purge", *arguments), 2)
    assert named in line
    assert "hunter2" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_missing_database_is_not_made(tmp_path: Path) -> None:
    assert "lapse migrate" in error_line(run_here("purge", "--closed-before", "9"), 1)
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_a_schema_or_out_of_reach_is_one_line(empty_postgres_url: str) -> None:
    for url, named in (
        (empty_postgres_url, "lapse migrate"),
        ("postgresql://me:hunter2@127.0.0.1:1/chat", "not available"),
    ):
        assert named in error_line(run_here("purge", "--closed-before", "9", "--database-url", url), 1)


def test_a_conversation_that_others_have_locked_is_left_to_the_next_purge(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        ids = insert_closed(database, range(5), ended_ago=40 * DAY)
        with database.engine.begin() as other:
            other.exec_driver_sql("BEGIN")
            other.exec_driver_sql(f"SELECT * FROM conversations WHERE conv_id = '{ids[2]}' FOR UPDATE")
            command = ["purge", "--closed-before", "30", "--json", "--database-url", postgres_url]
            assert json.loads(run_here(*command).stdout)["conversations"] == 4
            other.exec_driver_sql("ROLLBACK")
        assert counts(database) == (1, 1)
        assert json.loads(run_here(*command).stdout)["conversations"] == 1


def start(url: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LAPSE, "purge", "--closed-before", "30", "--database-url", url, *options],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def wait_until_at_work(database: Database, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while counts(database)[0] == OLD:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the purge deletes nothing"
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_whole_batches_and_says_what_was_done(
    database: Database, database_url: str, number: signal.Signals
) -> None:
    insert_closed(database, range(OLD), ended_ago=40 * DAY)
    with start(database_url, "--batch-size", str(BATCH), "--max-rate", "500") as process:
        wait_until_at_work(database, process)
        process.send_signal(number)
        begin = time.monotonic()
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - begin < 1
    assert (process.returncode, err) == (130, "lapse: interrupted\n")
    left, events = counts(database)
    assert 0 < left < OLD
    assert left == events
    assert left % BATCH == 0
    assert out.startswith(f"deleted {OLD - left:,} conversations and {OLD - left:,} events")
    assert out.endswith("the rest is left to the next purge\n")
    check_invariants(database)


def test_a_stop_before_the_database_answers_is_a_stop(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database, database.engine.begin() as other:
        other.exec_driver_sql("BEGIN")
        other.exec_driver_sql("LOCK TABLE lapse_schema_version IN ACCESS EXCLUSIVE MODE")
        with start(postgres_url) as process:
            until_waited_for_a_lock(database)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=20) == ("", "lapse: interrupted\n")
        assert process.returncode == 130
        other.exec_driver_sql("ROLLBACK")


def test_a_batch_that_waits_for_another_programs_lock_is_given_up_for_a_stop(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database, transaction(database) as connection:
        insert_closed(database, range(3), ended_ago=40 * DAY)
        connection.execute(sa.text("LOCK TABLE conversation_events IN EXCLUSIVE MODE"))
        with start(postgres_url) as process:
            until_waited_for_a_lock(database)
            process.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            out, err = process.communicate(timeout=20)
            assert STOP_GRACE_SECONDS - 0.1 <= time.monotonic() - begin < STOP_GRACE_SECONDS + 1
        assert (process.returncode, err) == (130, "lapse: interrupted\n")
        assert out.startswith("deleted 0 conversations and 0 events")
        connection.rollback()
        assert counts(database) in [(3, 3), (0, 0)], "the server may have done the whole batch when it got the lock"
        check_invariants(database)


def test_a_kill_in_the_middle_leaves_everything_whole(database: Database, database_url: str) -> None:
    insert_closed(database, range(OLD), ended_ago=40 * DAY)
    insert_conversations(database, range(OLD, OLD + 10))
    for _ in range(3):
        before = counts(database)[0]
        with start(database_url, "--batch-size", "7") as process:
            while counts(database)[0] == before:
                assert process.poll() is None, process.communicate()
            os.kill(process.pid, signal.SIGKILL)
            process.wait(20)
        left, events = counts(database)
        assert 10 < left < before
        assert events == left - 10
        check_invariants(database)
    assert run_lapse("purge", "--closed-before", "30", "--database-url", database_url).returncode == 0
    assert counts(database) == (10, 0)


def test_a_refusal_in_the_middle_is_one_line_that_says_what_was_done(database: Database, database_url: str) -> None:
    ids = insert_closed(database, range(25), ended_ago=40 * DAY)
    # As an application's own table would do that refers to conversations.
    refusal = {
        "sqlite": f"""
            CREATE TRIGGER mine BEFORE DELETE ON conversations WHEN old.conv_id = '{ids[12]}'
            BEGIN SELECT RAISE(ABORT, 'still needed'); END""",
        "postgresql": f"""
            CREATE TABLE mine (owner_id bigint, conv_id uuid, FOREIGN KEY (conv_id, owner_id) REFERENCES conversations);
            INSERT INTO mine VALUES (1, '{ids[12]}')""",
    }
    run_sql(database, refusal[database.dialect])
    result = run_here("purge", "--closed-before", "30", "--batch-size", "5", "--database-url", database_url)
    line = error_line(result, 1)
    assert line.startswith("the database refused: ")
    assert "; before that it deleted 10 conversations and 10 events (ended from " in line
    assert counts(database) == (15, 15)
    check_invariants(database)


# Dies with its first DELETE done: on PostgreSQL that is the batch, on SQLite the events of it.
DELETE_AND_DIE = """
import os, signal, sys
from lapse import ConversationRepository, Database
from lapse.store.statements import Statement

def die(statement, raw, read=Statement.rows):
    rows = read(statement, raw)
    if "DELETE" in statement.sql:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows

Statement.rows = die
ConversationRepository(Database(sys.argv[1])).purger.purge(30, batch_size=7)
"""


def test_a_kill_between_the_statements_of_a_batch_leaves_it_whole(database: Database, database_url: str) -> None:
    insert_closed(database, range(20), ended_ago=40 * DAY)
    assert run_program(sys.executable, "-c", DELETE_AND_DIE, database_url).returncode == -signal.SIGKILL
    assert counts(database) == ((20, 20) if database.dialect == "sqlite" else (13, 13))
    check_invariants(database)


def test_two_purges_at_once_delete_everything_once(database: Database, database_url: str) -> None:
    insert_closed(database, range(600), ended_ago=40 * DAY)
    # At a rate, since SQLite is not fair: who waits for the lock sleeps, and the other one would do everything.
    options = ("--batch-size", "10", "--max-rate", "200", "--json")
    with start(database_url, *options) as one, start(database_url, *options) as other:
        results = [json.loads(process.communicate(timeout=60)[0]) for process in (one, other)]
    assert [process.returncode for process in (one, other)] == [0, 0]
    assert sum(result["conversations"] for result in results) == 600
    assert sum(result["events"] for result in results) == 600
    assert all(result["conversations"] >= 50 for result in results), "they were not at work at the same time"
    assert counts(database) == (0, 0)


def test_messages_open_new_conversations_of_the_pairs_that_are_purged(database: Database, database_url: str) -> None:
    pairs = 300
    insert_closed(database, range(pairs), ended_ago=40 * DAY)
    insert_closed(database, range(pairs), ended_ago=39 * DAY, status="expired")
    with closing(ConversationService(database_url)) as service:
        with start(database_url, "--batch-size", "5") as process:
            for number in range(pairs):
                service.record_message(1, customer(number), BUSINESS, "sms")
                service.record_message(1, BUSINESS, customer(number), "sms", sender="agent")
            out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out.startswith("deleted 600 conversations and 600 events")
        for number in range(pairs):
            (found,) = service.get_conversation_history(1, customer(number), BUSINESS, "sms")
            assert found.status == "progress"
    assert counts(database) == (pairs, pairs)
    check_invariants(database)


def test_the_progress_is_shown_on_a_terminal_only(database: Database, database_url: str) -> None:
    insert_closed(database, range(1_200), ended_ago=40 * DAY, step=timedelta(minutes=10))
    command = ["purge", "--closed-before", "30", "--database-url", database_url, "--batch-size", "100"]
    code, out, err = run_with_terminal_for_errors(*command, "--max-rate", "1000")
    assert (code, out.startswith("deleted 1,200 conversations")) == (0, True)
    assert "deleted" in err
    assert "%" in err
    assert count(database, "conversations") == 0
    insert_closed(database, range(10), ended_ago=40 * DAY)
    assert run_here(*command).stderr == ""

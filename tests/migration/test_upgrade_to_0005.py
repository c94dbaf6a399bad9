"""From 0003 and 0004 to 0005 in place: what is known of open conversations, and interruptions at any step."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from lapse import BackgroundWorker, ConversationService, Database, ForeignTableError, migrate
from lapse.store import schema_version
from lapse.store.operations.schema import head_version
from tests.adoption.legacy_table import connect
from tests.database.test_partitions import block
from tests.migration.older_schemas import OPENED, events_of, migrated_to, open_conversations
from tests.migration.test_schema_matches_metadata import catalog
from tests.support.citus_stand_in import install_stand_in
from tests.support.commands import error_line, run_here, run_program
from tests.support.concurrency import at_once
from tests.support.sql import count, run_sql
from tests.support.waiting import until

PATIENCE_SECONDS = 30
"""On a machine that does much else."""
NEW_KEY = "pk_conversations_0005"
STATE = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{NEW_KEY}')"
KEY = """
    SELECT pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = 'conversations'::regclass AND contype = 'p'"""
MIGRATE_AND_DIE = """
import os, signal, sys
from contextlib import contextmanager
import sqlalchemy as sa
from lapse import Database, migrate

url, place = sys.argv[1:]

def die(here):
    if here == place:
        os.kill(os.getpid(), signal.SIGKILL)

class Progress:
    @contextmanager
    def step(self, title):
        die("before " + title)
        self.title = title
        yield
        die("after " + title)
    def advance(self, done, total):
        die("amid " + self.title)
    def message(self, line):
        print(line, file=sys.stderr, flush=True)

database = Database(url)

@sa.event.listens_for(database.engine, "after_cursor_execute")
def after(connection, cursor, statement, *rest):
    if "CREATE TABLE message_receipts" in statement:
        die("amid the transaction")

migrate(database, progress=Progress())
"""
COLUMNS, INDEX = "add the new columns", "build the index of the new primary key"
ANSWERS = "find out who opened and who answered open conversations"
PLACES = [f"before {COLUMNS}", f"after {COLUMNS}", f"before {INDEX}", f"after {INDEX}", f"amid {ANSWERS}"]
PLACES += [f"after {ANSWERS}", "amid the transaction"]


def url_of(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


@pytest.fixture(params=["0003", "0004"])
def older(request: pytest.FixtureRequest, new_database: Callable[..., str], backend: str) -> Iterator[Database]:
    """Return a database of an older version, with conversations."""
    with closing(migrated_to(new_database(backend, migrated=False), request.param)) as database:
        open_conversations(database)
        yield database


@pytest.fixture
def older_postgres(empty_postgres_url: str) -> Iterator[Database]:
    with closing(migrated_to(empty_postgres_url, "0004")) as database:
        open_conversations(database)
        yield database


def is_as_new(database: Database, new_url: str) -> bool:
    with closing(Database(new_url)) as new:
        return catalog(database) == catalog(new)


@contextmanager
def old_snapshot(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """Hold what an index that is built CONCURRENTLY waits for, and messages do not."""
    with connect(url_of(database), application_name="a long report") as report:
        report.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT 1")
        yield report
        report.execute("ROLLBACK")


# --- what is known ------------------------------------------------------------------------------------------------


def test_what_is_known_of_open_conversations_is_filled_in_and_nothing_else(
    older: Database, new_database: Callable[..., str], backend: str
) -> None:
    rows = "SELECT owner_id, conv_id, status, version, started_at, updated_at FROM conversations ORDER BY conv_id"
    kept, events = run_sql(older, rows), run_sql(older, "SELECT * FROM conversation_events ORDER BY conv_id, version")
    before = schema_version(older)
    result = migrate(older)
    assert (result.before, result.after) == (before, head_version())
    assert run_sql(older, rows) == kept
    assert run_sql(older, "SELECT * FROM conversation_events ORDER BY conv_id, version") == events
    found: list[Any] = run_sql(
        older,
        """SELECT session_key, opened_by, first_answered_at = started_at, first_answered_at IS NULL,
            last_outbound_at = first_answered_at, policy_id, hold_until, reminders_sent, reminded_at
        FROM conversations""",
    )
    known = {row[0]: (row[1], None if row[3] else ("start" if row[2] else "later")) for row in found}
    assert known == {name: (case.opened_by, case.answered) for name, case in OPENED.items()}
    assert {bool(row[4]) for row in found if not row[3]} == {True}
    assert {tuple(row[5:]) for row in found} == {(None, None, 0, None)}
    assert is_as_new(older, new_database(backend))


def test_the_first_answer_is_the_time_of_its_event(older: Database) -> None:
    migrate(older)
    rows: list[Any] = run_sql(
        older,
        """SELECT c.first_answered_at, e.occurred_at FROM conversations c JOIN conversation_events e
        ON e.conv_id = c.conv_id WHERE c.session_key = 'answered by support' AND e.type = 'activated'""",
    )
    ((answered, happened),) = rows
    assert answered == happened


def test_lapse_works_afterwards(older: Database) -> None:
    migrate(older)
    service = ConversationService(older)
    opened = service.record_message(1, "+5511999999999", "+14155238886")
    assert service.record_message(1, "+14155238886", "+5511999999999", sender="agent").conv_id == opened.conv_id
    assert all(run.error is None for run in BackgroundWorker(service=service).run_cycle())
    assert service.get_conversation_by_id(opened.conv_id).status == "progress"


# --- interrupted, repeated, at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_migration_that_is_killed_is_gone_on_with(
    older_postgres: Database, new_database: Callable[..., str], postgres: str, place: str
) -> None:
    killed = run_program(sys.executable, "-c", MIGRATE_AND_DIE, url_of(older_postgres), place)
    assert killed.returncode == -signal.SIGKILL, killed
    assert schema_version(older_postgres) == "0004"
    events_of(older_postgres, number=900)  # an old worker goes on
    assert migrate(older_postgres).before == "0004"
    assert is_as_new(older_postgres, new_database(postgres))
    assert count(older_postgres, "conversations WHERE opened_by IS NOT NULL") > 2


def test_a_sqlite_file_whose_migration_is_killed_is_as_before(new_database: Callable[..., str]) -> None:
    with closing(migrated_to(new_database("sqlite", migrated=False), "0004")) as database:
        open_conversations(database)
        before = catalog(database), run_sql(database, "SELECT * FROM conversations")
        killed = run_program(sys.executable, "-c", MIGRATE_AND_DIE, url_of(database), "amid the transaction")
        assert killed.returncode == -signal.SIGKILL, killed
        assert (catalog(database), run_sql(database, "SELECT * FROM conversations")) == before
        migrate(database)
        assert is_as_new(database, new_database("sqlite"))


def test_an_index_that_a_killed_run_left_behind_is_made_again(
    older_postgres: Database, new_database: Callable[..., str], postgres: str
) -> None:
    with old_snapshot(older_postgres):
        running = subprocess.Popen([sys.executable, "-m", "lapse", "migrate", "--database-url", url_of(older_postgres)])
        until(lambda: run_sql(older_postgres, STATE) == [(False,)])
        running.kill()
        running.wait()
        run_sql(
            older_postgres,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_progress_create_index "
            "WHERE relid = 'conversations'::regclass",
        )
        assert run_sql(older_postgres, STATE) == [(False,)]
    assert migrate(older_postgres).changed
    assert is_as_new(older_postgres, new_database(postgres))


def test_an_index_that_a_killed_run_still_builds_is_waited_for_and_taken(
    older_postgres: Database, new_database: Callable[..., str], postgres: str
) -> None:
    command = [sys.executable, "-m", "lapse", "migrate", "--database-url", url_of(older_postgres)]
    with old_snapshot(older_postgres):
        first = subprocess.Popen(command)
        until(lambda: run_sql(older_postgres, STATE) == [(False,)])
        ((oid,),) = run_sql(older_postgres, f"SELECT to_regclass('{NEW_KEY}')::oid::bigint")
        first.kill()
        first.wait()
        second = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
        assert second.stderr
        assert "waiting for an index of conversations that another session builds (pid " in second.stderr.readline()
    assert second.wait(30) == 0
    second.stderr.close()
    assert run_sql(older_postgres, "SELECT 'pk_conversations'::regclass::oid::bigint") == [(oid,)]
    assert is_as_new(older_postgres, new_database(postgres))


def test_ctrl_c_ends_it_at_once_and_says_so(older_postgres: Database) -> None:
    with old_snapshot(older_postgres):
        command = [sys.executable, "-m", "lapse", "migrate", "--database-url", url_of(older_postgres)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as running:
            try:
                assert running.stderr
                assert "waiting for the transaction of pid" in running.stderr.readline()
                running.send_signal(signal.SIGINT)
                assert running.wait(PATIENCE_SECONDS) == 130
            finally:
                running.kill()
        until(lambda: run_sql(older_postgres, "SELECT FROM pg_stat_progress_create_index") == [])
    assert schema_version(older_postgres) == "0004"
    assert migrate(older_postgres).changed


def test_of_processes_that_upgrade_at_once_one_does_it(older_postgres: Database) -> None:
    command = [sys.executable, "-m", "lapse", "migrate", "--database-url", url_of(older_postgres)]
    results = at_once([partial(run_program, *command) for _ in range(3)])
    assert [result.returncode for result in results] == [0] * 3, results
    assert sorted("upgraded the schema from version 0004" in result.stdout for result in results) == [
        False,
        False,
        True,
    ]
    assert run_sql(older_postgres, KEY) == [("PRIMARY KEY (conv_id, owner_id)",)]


def test_through_a_pooler_in_transaction_mode(new_database: Callable[..., str], pytestconfig: pytest.Config) -> None:
    if not (url := pooled_url(new_database, pytestconfig)):
        pytest.skip("there is no PgBouncer on this machine")
    with closing(migrated_to(url, "0004")) as database:
        open_conversations(database)
        assert migrate(database).changed
        assert run_sql(database, KEY) == [("PRIMARY KEY (conv_id, owner_id)",)]


def pooled_url(new_database: Callable[..., str], config: pytest.Config) -> str | None:
    """Return the URL of a database of the first server, in front of which the pooler is; None: there is no pooler."""
    from tests.conftest import POOLED, SERVERS
    from tests.support.pgbouncer import PROGRAM

    first = next(iter(config.stash[SERVERS].by_name))
    return new_database(f"{first}{POOLED}", migrated=False) if PROGRAM else None


# --- what stands in the way ---------------------------------------------------------------------------------------


def test_a_table_of_receipts_of_another_program_is_refused_before_anything_is_done(older: Database) -> None:
    run_sql(older, "CREATE TABLE message_receipts (id integer)")
    before, version = catalog(older), schema_version(older)
    with pytest.raises(ForeignTableError, match="'message_receipts' that lapse did not make; it was left as it is"):
        migrate(older)
    assert (catalog(older), schema_version(older)) == (before, version)


def test_a_foreign_key_to_the_primary_key_is_named_before_anything_is_done(older_postgres: Database) -> None:
    reference = "FOREIGN KEY (owner_id, conv_id) REFERENCES conversations (owner_id, conv_id)"
    run_sql(
        older_postgres, f"CREATE TABLE notes (owner_id bigint, conv_id uuid, CONSTRAINT of_conversation {reference})"
    )
    before = catalog(older_postgres)
    line = error_line(run_here("migrate", "--database-url", url_of(older_postgres)), 1)
    assert line.startswith("the constraint of_conversation of notes refers to the primary key of conversations")
    assert catalog(older_postgres) == before
    run_sql(older_postgres, "ALTER TABLE notes DROP CONSTRAINT of_conversation")
    migrate(older_postgres)
    run_sql(older_postgres, f"ALTER TABLE notes ADD CONSTRAINT of_conversation {reference}")


# --- other forms of the tables ------------------------------------------------------------------------------------


def test_partitioned_tables_are_upgraded(older_postgres: Database) -> None:
    with older_postgres.engine.connect() as connection:
        connection.connection.cursor().execute(block("sql"))
    before = count(older_postgres, "conversations")
    assert migrate(older_postgres).changed
    assert run_sql(older_postgres, KEY) == [("PRIMARY KEY (conv_id, owner_id)",)]
    assert count(older_postgres, "conversations") == before
    assert count(older_postgres, "conversations WHERE opened_by IS NOT NULL") > 2
    assert ConversationService(older_postgres).record_message(1, "+5511999999999", "+14155238886").status == "pending"


def test_distributed_tables_are_upgraded_and_the_receipts_are_with_them(older_postgres: Database) -> None:
    install_stand_in(url_of(older_postgres))
    for table in ("conversations", "conversation_events"):
        run_sql(older_postgres, f"SELECT create_distributed_table('{table}', 'owner_id', 'hash', 'default')")
    run_sql(older_postgres, "UPDATE pg_dist_partition SET colocationid = 1")
    assert migrate(older_postgres).changed
    placed = run_sql(
        older_postgres, "SELECT logicalrelid::text, partkey, colocationid FROM pg_dist_partition ORDER BY 1"
    )
    assert [tuple(row) for row in placed] == [
        ("conversation_events", "owner_id", 1),
        ("conversations", "owner_id", 1),
        ("message_receipts", "owner_id", 1),
    ]
    assert run_sql(older_postgres, KEY) == [("PRIMARY KEY (conv_id, owner_id)",)]
    assert count(older_postgres, "conversations WHERE opened_by IS NOT NULL") > 2


def test_what_others_put_into_a_sqlite_file_stays(new_database: Callable[..., str]) -> None:
    with closing(migrated_to(new_database("sqlite", migrated=False), "0004")) as database:
        open_conversations(database)
        for statement in (
            "ALTER TABLE conversations ADD COLUMN \"my team\" TEXT NOT NULL DEFAULT 'a''b'",
            "CREATE INDEX mine ON conversations (from_number)",
            'CREATE VIEW seen AS SELECT conv_id, "my team" FROM conversations',
            "CREATE TABLE log (line TEXT)",
            "CREATE TRIGGER noted AFTER UPDATE OF context ON conversations BEGIN "
            "INSERT INTO log VALUES (new.conv_id); END",
            "UPDATE conversations SET \"my team\" = 'blue' WHERE session_key = 'waiting'",
        ):
            run_sql(database, statement)
        migrate(database)
        teams = "SELECT \"my team\" FROM seen JOIN conversations USING (conv_id) WHERE session_key = 'waiting'"
        assert run_sql(database, "SELECT count(*) FROM seen") == [(len(OPENED),)]
        assert run_sql(database, teams.replace('"my team" FROM', 'seen."my team" FROM')) == [("blue",)]
        run_sql(database, "UPDATE conversations SET context = '{}' WHERE session_key = 'waiting'")
        assert count(database, "log") == 1
        assert "mine" in {index["name"] for index in sa.inspect(database.engine).get_indexes("conversations")}

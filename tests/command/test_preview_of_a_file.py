"""`lapse preview` of a SQLite file: it says what it says of PostgreSQL, and changes no file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lapse import Database
from lapse.store.preview import preview
from tests.support.backlog import insert_conversations
from tests.support.commands import error_line, run_here, run_powerless
from tests.support.sql import own_tables, run_sql, transaction

HALF_AN_HOUR = timedelta(minutes=30)
FILE = Path("lapse.db")
URL = f"sqlite:///{FILE}"


@pytest.fixture
def file(new_database: Callable[..., str]) -> Iterator[Database]:
    """Hand out `lapse.db` in the test's folder, with some that are due."""
    with closing(Database(new_database("sqlite"))) as database:
        insert_some(database)
        yield database


def insert_some(database: Database) -> None:
    insert_conversations(database, range(7), silent_for=timedelta(hours=2))
    insert_conversations(database, range(100, 105), expires_in=-timedelta(days=400), status="idle_timeout")
    insert_conversations(database, range(200, 203), silent_for=timedelta(hours=2), expires_in=-timedelta(days=3))
    insert_conversations(database, range(300, 311))
    run_sql(database, "UPDATE conversations SET owner_id = 2 WHERE status = 'idle_timeout'")


def run_json(*options: str) -> dict[str, Any]:
    result = run_here("preview", "--json", "--database-url", URL, *options)
    assert (result.returncode, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_it_says_the_same_on_either_database(database_url: str, file: Database) -> None:
    with transaction(file) as connection:
        rows = [row._asdict() for row in connection.execute(own_tables(file).conversations.select())]
    with closing(Database(database_url)) as other:
        conversations = own_tables(other).conversations
        with transaction(other) as connection:
            connection.execute(conversations.delete())  # where it is the very file
            connection.execute(conversations.insert(), rows)
        for expiration in (None, timedelta(hours=1)):
            one, two = (preview(each, HALF_AN_HOUR, expiration) for each in (file, other))
            assert one.conversations > 0
            for name in (
                "conversations",
                "by_status",
                "by_age",
                "by_owner",
                "owners",
                "histogram",
                "is_before_adoption",
            ):
                assert getattr(one, name) == getattr(two, name), name
            assert (one.oldest, one.newest) == (two.oldest, two.newest)


def test_people_get_the_same_table_and_picture(file: Database) -> None:
    shown = run_here("preview", "--database-url", URL)
    assert (shown.returncode, shown.stderr) == (0, "")
    for words in ("would end 15 conversations", "pending -> expired", "under a week", "a year and more", "#", "oldest"):
        assert words in shown.stdout
    assert shown.stdout.endswith("\nnothing was changed\n")


def test_it_goes_on_beside_a_writer_and_sees_what_is_committed(file: Database) -> None:
    with closing(sqlite3.connect(FILE, isolation_level=None, timeout=0)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM conversations WHERE status = 'idle_timeout'")
        assert run_json()["conversations"] == 15
        writer.execute("COMMIT")
    assert run_json()["conversations"] == 10


def as_it_is() -> tuple[bytes, list[Path]]:
    """Return what is in the file, and what is beside it."""
    return FILE.read_bytes(), sorted(Path.cwd().iterdir())


def test_the_file_and_its_folder_stay_as_they_are(file: Database) -> None:
    file.close()
    before = as_it_is()
    run_json()
    assert as_it_is() == before
    with closing(sqlite3.connect(FILE)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    before = as_it_is()
    run_json()
    assert as_it_is() == before, "it is not made a file with a write-ahead log"


def test_who_may_only_read_file_and_folder_has_a_preview(file: Database, tmp_path: Path) -> None:
    file.close()
    folder = tmp_path / "kept"
    folder.mkdir()
    FILE.rename(folder / FILE)
    (folder / FILE).chmod(0o444)
    folder.chmod(0o555)
    result = run_powerless("preview", "--json", "--database-url", f"sqlite:///{folder / FILE}")
    folder.chmod(0o755)
    assert json.loads(result.stdout)["conversations"] == 15


def test_what_is_no_file_of_lapses_is_one_line_and_none_is_made() -> None:
    assert "run `lapse migrate`" in error_line(run_here("preview", "--database-url", URL), 1)
    assert not FILE.exists()
    FILE.touch()
    assert "has no table conversations" in error_line(run_here("preview", "--database-url", URL), 1)
    with closing(sqlite3.connect(FILE)) as connection:
        connection.execute("CREATE TABLE conversations (owner_id, status, started_at, updated_at)")
    assert "not one that lapse made" in error_line(run_here("preview", "--database-url", URL), 1)
    FILE.write_bytes(b"no database at all " * 500)
    assert "file is not a database" in error_line(run_here("preview", "--database-url", URL), 1)
    with closing(sqlite3.connect("locked.db", isolation_level=None)) as writer:
        writer.execute("CREATE TABLE conversations (owner_id)")
        writer.execute("BEGIN EXCLUSIVE")
        assert "locked" in error_line(run_here("preview", "--database-url", "sqlite:///locked.db"), 1)

"""`lapse preview`: what a first cycle would end, on lapse's own table and on an application's before it is adopted."""

from __future__ import annotations

import json
import re
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from lapse import BackgroundWorker, ConversationService, Database
from lapse.store.preview import preview
from tests.adoption.legacy_table import FORMS, Form, connect, create_legacy_table, fill
from tests.support.backlog import insert_conversations
from tests.support.commands import error_line, run_here, run_lapse
from tests.support.workers import counts

HALF_AN_HOUR = timedelta(minutes=30)
ROWS = 500


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_applications_table_is_counted_before_it_is_adopted(empty_postgres_url: str, form: Form) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, form)
        fill(connection, ROWS, form, open_share=0.5)
        before = whole_table(connection)
        found = run_json(empty_postgres_url)
        assert whole_table(connection) == before
        wanted = connection.execute(
            """SELECT status, CASE WHEN expires_at < now() THEN 'expired' ELSE 'idle_timeout' END, count(*)
            FROM conversations WHERE status IN ('pending', 'progress', 'idle_timeout') AND expires_at < now()
                OR status IN ('pending', 'progress') AND updated_at < now() - interval '30 minutes'
            GROUP BY 1, 2"""
        ).fetchall()
    assert sorted(map(tuple, found["by_status"])) == sorted(wanted) != []
    total = sum(number for _, _, number in wanted)
    assert found["conversations"] == total == sum(found["by_age"].values()) == sum(found["histogram"])
    assert found["owners"] == 20
    assert len(found["by_owner"]) == 10
    assert found["by_owner"] == sorted(found["by_owner"], key=lambda pair: (-pair[1], pair[0]))
    assert found["oldest"] < found["newest"] < found["now"]


def test_what_is_null_is_taken_as_lapse_takes_it(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        insert(connection, expires_at=None, updated_at="now() - interval '1 hour'")  # never expires, is idle
        insert(connection, expires_at=None, updated_at=None, started_at="now() - interval '2 days'")  # idle since then
        insert(connection, expires_at=None, updated_at=None, started_at=None)  # idle since 1970
        insert(connection, status=None, updated_at=None)
        insert(connection, status="'idle_timeout'", expires_at=None)
        insert(connection, expires_at="'-infinity'")
        insert(connection, expires_at="'infinity'", updated_at="'infinity'")
        found = run_json(empty_postgres_url)
    assert found["by_status"] == [["pending", "idle_timeout", 3], ["pending", "expired", 1]]
    assert (found["by_age"]["under an hour"], found["by_age"]["under a week"], found["by_age"]["a year and more"]) == (
        1,
        1,
        2,
    )
    assert found["oldest"] == "0001-01-02T00:00:00Z"
    assert found["histogram_begin"] > "2000"
    assert found["histogram"][0] == 2, "what is older than the histogram is in its first column"


def test_another_expiration_is_counted_from_the_start(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        for hours in (1, 3, 5):
            insert(connection, status="'idle_timeout'", started_at=f"now() - interval '{hours} hours'")
        insert(connection, started_at="'294276-12-31'", updated_at="'294276-12-31'")
    assert run_json(empty_postgres_url)["conversations"] == 0
    found = run_json(empty_postgres_url, "--expiration-minutes", "120")
    assert found["by_status"] == [["idle_timeout", "expired", 2]]
    assert found["expiration_minutes"] == 120
    now, oldest = datetime.fromisoformat(found["now"]), datetime.fromisoformat(found["oldest"])
    assert timedelta(hours=3) <= now - oldest < timedelta(hours=3, minutes=1)


def test_a_table_without_expires_at_has_what_never_expires(empty_postgres_url: str) -> None:
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection)
        connection.execute("ALTER TABLE conversations DROP COLUMN expires_at")
        insert(connection, updated_at="'2020-01-01'")
    assert run_json(empty_postgres_url)["by_status"] == [["pending", "idle_timeout", 1]]


def test_the_first_cycle_ends_exactly_what_was_previewed(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        insert_conversations(database, range(7), silent_for=timedelta(hours=2))
        insert_conversations(database, range(100, 105), expires_in=-timedelta(minutes=1), status="idle_timeout")
        insert_conversations(database, range(200, 203), silent_for=timedelta(hours=2), expires_in=-timedelta(hours=1))
        insert_conversations(database, range(300, 311))
        found = preview(database, HALF_AN_HOUR)
        assert sorted(found.by_status) == [
            ("idle_timeout", "expired", 5),
            ("pending", "expired", 3),
            ("pending", "idle_timeout", 7),
        ]
        assert (found.by_owner, found.owners) == ([("1", 15)], 1)
        assert BackgroundWorker(service=ConversationService(postgres_url)).run_once()
        assert counts(database) == {"expired": 8, "idle_timeout": 7, "pending": 11}
        assert preview(database, HALF_AN_HOUR).conversations == 0


def test_people_get_a_table_and_a_picture_without_anybodys_address(empty_postgres_url: str) -> None:
    form = Form(conv_id="text", owner_id="bigint")
    with connect(empty_postgres_url) as connection:
        create_legacy_table(connection, form)
        fill(connection, ROWS, form, open_share=0.5)
        connection.execute("ALTER TABLE conversations ALTER COLUMN owner_id TYPE text USING '+551199999' || owner_id")
    shown = run_lapse("preview", "--database-url", empty_postgres_url, "--idle-minutes", "90")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    for words in ("would end", "idle after 90 minutes", "pending → expired", "other", "under an hour", "█", "oldest"):
        assert words in shown.stdout
    assert shown.stdout.endswith("nothing was changed\n")
    assert max(map(len, shown.stdout.splitlines()[1:])) <= 79
    assert "+551199999" not in shown.stdout
    assert "+55119*****" in shown.stdout or "+5511*****" in shown.stdout


def test_nothing_due_is_said_in_two_lines(postgres_url: str) -> None:
    shown = run_here("preview", "--database-url", postgres_url)
    assert (shown.returncode, len(shown.stdout.splitlines())) == (0, 4)
    assert "would end 0 conversations" in shown.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("", "no table conversations"),
        ("CREATE TABLE conversations (id int)", "no column owner_id"),
        (
            "CREATE TABLE conversations (owner_id int, status int, started_at timestamptz, updated_at timestamptz)",
            "status .* is integer",
        ),
        (
            "CREATE TABLE conversations (owner_id int, status text, started_at timestamptz, updated_at timestamptz, "
            "expires_at timestamp)",
            "expires_at .* is timestamp without time zone,",
        ),
    ],
)
def test_what_is_no_table_of_conversations_is_one_line(empty_postgres_url: str, change: str, words: str) -> None:
    with connect(empty_postgres_url) as connection:
        if change:
            connection.execute(change.encode())
    assert re.search(words, error_line(run_here("preview", "--database-url", empty_postgres_url), 1))


def test_unusable_minutes_are_one_line() -> None:
    for option in ("--idle-minutes", "--expiration-minutes"):
        error_line(run_here("preview", "--database-url", "postgresql://localhost:1/x", option, "0"), 2)


def run_json(url: str, *options: str) -> dict[str, Any]:
    """Return what the command says, as JSON."""
    result = run_here("preview", "--json", "--database-url", url, *options)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def insert(connection: psycopg.Connection[Any], **values: str | None) -> None:
    """Insert a conversation, with these SQL expressions."""
    row = {"owner_id": "1", "from_number": "'a'", "to_number": "'b'", **values}
    columns, expressions = ", ".join(row), ", ".join(value or "NULL" for value in row.values())
    connection.execute(f"INSERT INTO conversations ({columns}) VALUES ({expressions})".encode())


def whole_table(connection: psycopg.Connection[Any]) -> list[Any]:
    """Return every row, with where it stands: an update would move it."""
    return connection.execute("SELECT ctid, * FROM conversations ORDER BY conv_id").fetchall()

"""`lapse doctor` finds each fault planted in the tables of a SQLite file, and only that; its advice, run, mends it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing

import pytest

from tests.adoption.examining_files import FILE, codes, converse, examined, run_in_shell, run_sql, the_finding


@pytest.fixture(autouse=True)
def file(new_database: Callable[..., str]) -> None:
    assert new_database("sqlite").endswith(str(FILE))
    converse()


# What is SQL in the advice is run, and nothing is found any more.
MENDED_BY_SQL: Mapping[str, tuple[str, str]] = {
    "an index": ("DROP INDEX ix_conversations_expires_at_open", "missing-index"),
    "the unique index": ("DROP INDEX uq_conversations_open_session", "missing-index"),
    "another index": (
        "DROP INDEX ix_conversations_ended_at_closed; CREATE INDEX ix_conversations_ended_at_closed ON conversations "
        "(owner_id)",
        "differing-index",
    ),
    "an index that is not unique": (
        "DROP INDEX uq_conversations_open_session; CREATE INDEX uq_conversations_open_session ON conversations "
        "(owner_id, channel, session_key) WHERE status IN ('pending', 'progress', 'idle_timeout')",
        "differing-index",
    ),
    "a partial index over less": (
        "DROP INDEX ix_conversations_idle_check_at_active; CREATE INDEX ix_conversations_idle_check_at_active ON "
        "conversations (idle_check_at) WHERE status = 'pending'",
        "differing-index",
    ),
    "a column": ("ALTER TABLE conversations DROP COLUMN last_inbound_at", "missing-column"),
    "a column with a default": ("ALTER TABLE conversations DROP COLUMN metadata", "missing-column"),
    "a column of events": ("ALTER TABLE conversation_events DROP COLUMN data", "missing-column"),
    "a column to fill": (
        "CREATE TABLE copied AS SELECT * FROM conversation_events; DROP TABLE conversation_events; "
        "ALTER TABLE copied RENAME TO conversation_events; "
        "CREATE UNIQUE INDEX pk ON conversation_events (owner_id, conv_id, version); "
        "DELETE FROM conversation_events; PRAGMA writable_schema = ON; "
        "UPDATE sqlite_schema SET sql = replace(sql, 'data', 'team TEXT NOT NULL, data') "
        "WHERE name = 'conversation_events'; PRAGMA writable_schema = RESET",
        "required-column",
    ),
    "a primary key": (
        "CREATE TABLE copied AS SELECT * FROM conversation_events; DROP TABLE conversation_events; "
        "ALTER TABLE copied RENAME TO conversation_events",
        "primary-key",
    ),
    "a trigger": (
        'CREATE TRIGGER "touch it" AFTER UPDATE ON conversations BEGIN\n'
        "UPDATE conversations SET updated_at = datetime() WHERE rowid = new.rowid; END",
        "activity-trigger",
    ),
    "a trigger for a column of lapse's": (
        "CREATE TRIGGER touch UPDATE OF metadata, idle_check_at ON conversations BEGIN "
        "UPDATE conversations SET metadata = '{}', updated_at = datetime() WHERE rowid = new.rowid; END",
        "activity-trigger",
    ),
    "a trigger with a condition": (
        "CREATE TRIGGER touch AFTER UPDATE ON conversations WHEN new.metadata IS NOT old.metadata BEGIN "
        "UPDATE conversations SET updated_at = datetime() WHERE rowid = new.rowid; END",
        "(activity-trigger-after)",
    ),
    "a time with a T": ("UPDATE conversations SET expires_at = replace(expires_at, ' ', 'T')", "time-form"),
    "a time with an offset": ("UPDATE conversations SET updated_at = updated_at || '+00:00'", "time-form"),
    "a time of another zone": (
        "UPDATE conversations SET idle_check_at = '2026-01-01T09:00:00.5-03:00' WHERE rowid = 2",
        "time-form",
    ),
    "a file without a write-ahead log": ("PRAGMA journal_mode = DELETE", "(journal-mode)"),
}


@pytest.mark.parametrize("name", MENDED_BY_SQL)
def test_what_to_do_mends_it(name: str) -> None:
    fault, code = MENDED_BY_SQL[name]
    run_sql(fault)
    assert codes(examined()) == [code]
    do = the_finding()["hint"]
    if do.startswith("sqlite3 "):
        run_in_shell(do)
    else:
        run_sql(do[: do.rindex(";") + 1].partition("; and ")[0])
    assert examined()["findings"] == []
    converse()  # and lapse works


HARMLESS = {
    "a trigger for other columns": "CREATE TRIGGER touch AFTER UPDATE OF metadata ON conversations BEGIN "
    "UPDATE conversations SET updated_at = datetime() WHERE rowid = new.rowid; END",
    "a trigger that sets something else": "CREATE TRIGGER touch AFTER UPDATE ON conversations BEGIN "
    "UPDATE conversations SET user_id = 1 WHERE updated_at IS NULL; END",
    "a trigger on another table": "CREATE TABLE messages (id); CREATE TRIGGER touch AFTER UPDATE ON messages BEGIN "
    "UPDATE conversations SET updated_at = datetime(); END",
    "another index": "CREATE INDEX mine ON conversations (owner_id, from_number)",
    "an index spelled otherwise": "DROP INDEX ix_conversations_session_history_not_open; "
    'CREATE INDEX IF NOT EXISTS "ix_conversations_session_history_not_open" ON  [conversations] ( `owner_id`, channel, '
    "session_key, started_at) WHERE (status NOT IN ('pending', 'progress', 'idle_timeout'))",
    "a column of the application's": "ALTER TABLE conversations ADD COLUMN team TEXT NOT NULL DEFAULT 'a'",
    "a time without a fraction": "UPDATE conversations SET expires_at = '2030-01-01 00:00:00'",
    "a day": "UPDATE conversations SET expires_at = '2030-01-01'",
    "a far time": "UPDATE conversations SET expires_at = '9999-12-31 23:59:59.999999'",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_no_finding(name: str) -> None:
    run_sql(HARMLESS[name])
    assert examined()["findings"] == []


@pytest.mark.parametrize(
    ("fault", "code", "mend"),
    [
        ("expires_at = 'soon'", "unreadable-time", "expires_at = '2030-01-01'"),
        ("updated_at = 1700000000", "unreadable-time", "updated_at = '2026-01-01'"),
        ("ended_at = '2026-02-30 10:00:00'", "unreadable-time", "ended_at = NULL"),
        ("started_at = x'00'", "unreadable-time", "started_at = '2026-01-01'"),
        ("metadata = 'no JSON'", "unreadable-object", "metadata = '{}'"),
        ("context = '[1]'", "unreadable-object", "context = '{}'"),
        ("status = 'human_handoff'", "(unknown-status)", "status = 'pending'"),
    ],
)
def test_rows_that_lapse_cannot_read_are_counted_and_shown(fault: str, code: str, mend: str) -> None:
    run_sql(f"UPDATE conversations SET {fault} WHERE rowid < 3")
    assert codes(examined()) == [code]
    finding = the_finding()
    assert finding["message"].startswith("2 conversations ")
    if "Which: " in finding["hint"]:
        query = finding["hint"].partition("Which: ")[2]
        with closing(sqlite3.connect(FILE)) as connection:
            assert len(connection.execute(query).fetchall()) == 2
    run_sql(f"UPDATE conversations SET {mend} WHERE rowid < 3")
    assert examined()["findings"] == []


def test_several_open_conversations_of_a_pair_are_counted_and_shown() -> None:
    run_sql("DROP INDEX uq_conversations_open_session", "UPDATE conversations SET session_key = 'a::b' WHERE rowid < 4")
    found = examined()
    assert codes(found) == ["duplicates", "missing-index"]
    (duplicates,) = [one for one in found["findings"] if one["code"] == "duplicates"]
    assert duplicates["message"].startswith("1 pair of addresses has several open conversations: 2 too many.")
    with closing(sqlite3.connect(FILE)) as connection:
        assert len(connection.execute(duplicates["hint"].partition("Which: ")[2]).fetchall()) == 1

"""`lapse doctor` of a SQLite file: nothing is found in a healthy one; each planted fault is, and the advice mends it.

Faults are planted by `sqlite3` beside lapse, and the advice is run as it is printed: SQL, or a command of the shell.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lapse import ConversationService, Database
from lapse.adoption import sqlite_doctor
from lapse.adoption.checks.sqlite_file import NETWORKED, file_system_of
from tests.backlog import BUSINESS, customer, insert_conversations
from tests.commands import environment, error_line, run_here, run_lapse, run_powerless
from tests.missing import missing

FILE = Path("lapse.db")
URL = f"sqlite:///{FILE}"


@pytest.fixture(autouse=True)
def file(new_database: Callable[..., str]) -> Iterator[Path]:
    """Put a healthy `lapse.db` into the test's folder."""
    assert new_database("sqlite").endswith(str(FILE))
    converse()
    yield FILE
    Path.cwd().chmod(0o755)


def converse() -> None:
    with closing(ConversationService(URL)) as service:
        for each in range(5):
            service.record_message(1, customer(each), BUSINESS, metadata={"number": each})


def run_sql(*statements: str, file: Path = FILE) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            connection.executescript(statement)


def examined(url: str = URL, run: Callable[..., Any] = run_here) -> dict[str, Any]:
    result = run("doctor", "--json", "--database-url", url)
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    assert list(found) == ["database", "kind", "traits", "server_version", "findings", "healthy"]
    assert result.returncode == (0 if found["healthy"] else 1)
    return found


def codes(found: dict[str, Any]) -> list[str]:
    return sorted(f"({one['code']})" if one["level"] == "note" else one["code"] for one in found["findings"])


def the_finding(run: Callable[..., Any] = run_here) -> dict[str, str]:
    (finding,) = examined(run=run)["findings"]
    assert isinstance(finding, dict)
    return finding


def test_nothing_is_found_in_a_healthy_file_at_rest_and_in_use() -> None:
    at_rest = examined()
    assert (at_rest["kind"], at_rest["traits"], at_rest["findings"]) == ("own", [], [])
    assert at_rest["server_version"] == sqlite3.sqlite_version
    with closing(sqlite3.connect(FILE, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE conversations SET status = 'expired'")
        assert examined() == at_rest, "a writer is not waited for"
        writer.execute("COMMIT")
    shown = run_lapse("doctor", "--database-url", URL)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[1:] == [
        "kind:      lapse's own tables",
        f"server:    SQLite {sqlite3.sqlite_version}",
        "",
        "healthy",
    ]


def test_neither_file_nor_folder_is_changed() -> None:
    before = (FILE.read_bytes(), sorted(Path.cwd().iterdir()))
    examined()
    assert (FILE.read_bytes(), sorted(Path.cwd().iterdir())) == before


# What is SQL in the advice is run, and nothing is found any more.
MENDED_BY_SQL: Mapping[str, tuple[str, str]] = {
    "an index": ("DROP INDEX ix_conversations_expires_at_open", "missing-index"),
    "the unique index": ("DROP INDEX uq_conversations_open_session", "missing-index"),
    "another index": (
        "DROP INDEX ix_conversations_conv_id; CREATE INDEX ix_conversations_conv_id ON conversations (owner_id)",
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
    do = the_finding()["do"]
    if do.startswith("sqlite3 "):
        run_in_shell(do)
    else:
        run_sql(do[: do.rindex(";") + 1].partition("; and ")[0])
    assert examined()["findings"] == []
    converse()  # and lapse works


def run_in_shell(command: str) -> None:
    if shutil.which("sqlite3") is None:
        missing("there is no sqlite3 on this machine (Debian's package sqlite3 has it)")
    subprocess.run(command, shell=True, check=True, env=environment(), capture_output=True)


HARMLESS = {
    "a trigger for other columns": "CREATE TRIGGER touch AFTER UPDATE OF metadata ON conversations BEGIN "
    "UPDATE conversations SET updated_at = datetime() WHERE rowid = new.rowid; END",
    "a trigger that sets something else": "CREATE TRIGGER touch AFTER UPDATE ON conversations BEGIN "
    "UPDATE conversations SET user_id = 1 WHERE updated_at IS NULL; END",
    "a trigger on another table": "CREATE TABLE messages (id); CREATE TRIGGER touch AFTER UPDATE ON messages BEGIN "
    "UPDATE conversations SET updated_at = datetime(); END",
    "another index": "CREATE INDEX mine ON conversations (owner_id, from_number)",
    "an index spelled otherwise": "DROP INDEX ix_conversations_conv_id; "
    'CREATE INDEX IF NOT EXISTS "ix_conversations_conv_id" ON  [conversations] ( `conv_id` )',
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
    assert finding["what"].startswith("2 conversations ")
    if "Which: " in finding["do"]:
        query = finding["do"].partition("Which: ")[2]
        with closing(sqlite3.connect(FILE)) as connection:
            assert len(connection.execute(query).fetchall()) == 2
    run_sql(f"UPDATE conversations SET {mend} WHERE rowid < 3")
    assert examined()["findings"] == []


def test_several_open_conversations_of_a_pair_are_counted_and_shown() -> None:
    run_sql("DROP INDEX uq_conversations_open_session", "UPDATE conversations SET session_key = 'a::b' WHERE rowid < 4")
    found = examined()
    assert codes(found) == ["duplicates", "missing-index"]
    (duplicates,) = [one for one in found["findings"] if one["code"] == "duplicates"]
    assert duplicates["what"].startswith("1 pair of addresses has several open conversations: 2 too many.")
    with closing(sqlite3.connect(FILE)) as connection:
        assert len(connection.execute(duplicates["do"].partition("Which: ")[2]).fetchall()) == 1


def test_whose_tables_these_are_is_said() -> None:
    FILE.unlink()
    assert (examined()["kind"], codes(examined())) == ("empty", ["empty"])
    assert not FILE.exists(), "none is made"
    FILE.touch()
    assert (examined()["kind"], codes(examined())) == ("empty", ["empty"])
    assert run_here("migrate", "--database-url", URL).returncode == 0
    assert examined()["findings"] == []
    FILE.unlink()
    run_sql("CREATE TABLE conversations (id)")
    found = examined()
    assert (found["kind"], codes(found)) == ("other", ["foreign-table"])
    run_sql(found["findings"][0]["do"].partition("or: ")[2].partition(" then")[0])
    assert run_here("migrate", "--database-url", URL).returncode == 0
    assert examined()["findings"] == []


def test_a_folder_that_is_not_there_is_made_as_it_says() -> None:
    (finding,) = examined("sqlite:///a%20new/folder/lapse.db")["findings"]
    assert finding["code"] == "empty"
    subprocess.run(finding["do"].partition(";")[0], shell=True, check=True)
    assert "There is no file" in examined("sqlite:///a%20new/folder/lapse.db")["findings"][0]["what"]


def test_another_version_and_a_lost_table_are_found() -> None:
    for version, trait in (("0002", "behind"), ("9999", "ahead")):
        run_sql(f"UPDATE lapse_schema_version SET version_num = '{version}'")
        found = examined()
        assert (found["traits"], codes(found)) == ([trait], [f"schema-{trait}"])
    run_sql("UPDATE lapse_schema_version SET version_num = '0003'", "DROP TABLE conversation_events")
    assert codes(examined()) == ["missing-table"]


def test_what_is_no_database_is_said_and_a_damaged_one_is_recovered(tmp_path: Path) -> None:
    assert codes(examined(f"sqlite:///{tmp_path}")) == ["not-a-database"]
    junk = Path("junk.db")
    junk.write_bytes(b"no database at all" * 500)
    assert codes(examined(f"sqlite:///{junk}")) == ["not-a-database"]
    with closing(Database(URL)) as database:
        insert_conversations(database, range(100, 600))
    with closing(sqlite3.connect(FILE)) as connection:
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))
    whole = FILE.read_bytes()
    places = {name: (page - 1) * 4096 for name, page in roots.items()} | {"the schema's own page": 100}
    for name, place in places.items():
        FILE.write_bytes(whole[:place] + b"\xff" * 512 + whole[place + 512 :])
        found = examined()
        assert "corrupt" in codes(found), name
        assert customer(100) not in json.dumps(found)
    index = places["ix_conversations_conv_id"]
    FILE.write_bytes(whole[:index] + b"\xff" * 512 + whole[index + 512 :])
    (finding,) = [one for one in examined()["findings"] if one["code"] == "corrupt"]
    run_in_shell(finding["do"].partition("without one: ")[2])
    recovered = examined(f"sqlite:///recovered-{FILE}")
    assert codes(recovered) == ["(journal-mode)"]
    with closing(ConversationService(f"sqlite:///recovered-{FILE}")) as service:
        assert len(service.get_active_conversations(1, limit=1_000)) == 505


@pytest.mark.parametrize("part", ["file", "folder"])
def test_what_cannot_be_written_is_found_as_the_user_who_looks(part: str) -> None:
    path = FILE if part == "file" else Path.cwd()
    path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    found = examined(run=run_powerless)
    assert (found["traits"], codes(found)) == (["read-only"], ["read-only"])
    subprocess.run(found["findings"][0]["do"], shell=True, check=True)
    assert examined(run=run_powerless)["findings"] == []


def test_a_file_that_may_not_be_read_is_found() -> None:
    FILE.chmod(0o200)
    found = examined(run=run_powerless)
    assert (found["kind"], codes(found)) == ("hidden", ["missing-right"])
    subprocess.run(found["findings"][0]["do"], shell=True, check=True)
    assert examined(run=run_powerless)["findings"] == []


def test_a_look_that_takes_too_long_is_unknown_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Database(URL)) as database:
        insert_conversations(database, range(100, 3_100))
    monkeypatch.setattr(sqlite_doctor, "LOOK_SECONDS", 0.0)
    found = examined()
    unknown = [one["what"] for one in found["findings"] if one["code"] == "unknown"]
    assert any("whole" in what for what in unknown)
    assert any("rows" in what for what in unknown)
    assert all("it takes too long" in what for what in unknown)
    assert found["healthy"]


def test_a_file_that_another_program_keeps_to_itself_is_one_line() -> None:
    with closing(sqlite3.connect(FILE, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert "locked" in error_line(run_here("doctor", "--database-url", URL), 1)


def test_a_network_file_system_is_told_by_the_mount_that_the_file_is_on() -> None:
    mounts = (
        "23 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n"
        "28 1 253:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
        "99 28 0:52 / /srv/share\\040d rw,relatime shared:77 master:3 - nfs4 files:/srv rw,vers=4.2\n"
    )
    assert file_system_of(mounts, (253 << 8) | 1) == "ext4"
    assert file_system_of(mounts, 52) == "nfs4"
    assert file_system_of(mounts, 53) is None
    assert "nfs4" in NETWORKED

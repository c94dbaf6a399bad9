"""`lapse doctor` of a SQLite file: what it is, whether it is whole and can be written; a healthy one is healthy."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lapse import ConversationService, Database
from lapse.adoption import sqlite_doctor
from lapse.adoption.checks.sqlite_file import NETWORKED, file_system_of
from lapse.store.operations.schema import head_version
from tests.adoption.examining_files import FILE, URL, codes, converse, examined, run_in_shell, run_sql
from tests.support.backlog import customer, insert_conversations
from tests.support.commands import error_line, run_here, run_lapse, run_powerless


@pytest.fixture(autouse=True)
def file(new_database: Callable[..., str]) -> Iterator[None]:
    assert new_database("sqlite").endswith(str(FILE))
    converse()
    yield
    Path.cwd().chmod(0o755)


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
    run_sql(found["findings"][0]["hint"].partition("or: ")[2].partition(" then")[0])
    assert run_here("migrate", "--database-url", URL).returncode == 0
    assert examined()["findings"] == []


def test_a_folder_that_is_not_there_is_made_as_it_says() -> None:
    (finding,) = examined("sqlite:///a%20new/folder/lapse.db")["findings"]
    assert finding["code"] == "empty"
    subprocess.run(finding["hint"].partition(";")[0], shell=True, check=True)
    assert "There is no file" in examined("sqlite:///a%20new/folder/lapse.db")["findings"][0]["message"]


def test_another_version_and_a_lost_table_are_found() -> None:
    for version, trait in (("0002", "behind"), ("9999", "ahead")):
        run_sql(f"UPDATE lapse_schema_version SET version_num = '{version}'")
        found = examined()
        assert (found["traits"], codes(found)) == ([trait], [f"schema-{trait}"])
    run_sql(f"UPDATE lapse_schema_version SET version_num = '{head_version()}'", "DROP TABLE conversation_events")
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
    index = places["ix_conversations_ended_at_closed"]
    FILE.write_bytes(whole[:index] + b"\xff" * 512 + whole[index + 512 :])
    (finding,) = [one for one in examined()["findings"] if one["code"] == "corrupt"]
    run_in_shell(finding["hint"].partition("still be read: ")[2])
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
    subprocess.run(found["findings"][0]["hint"], shell=True, check=True)
    assert examined(run=run_powerless)["findings"] == []


def test_a_file_that_may_not_be_read_is_found() -> None:
    FILE.chmod(0o200)
    found = examined(run=run_powerless)
    assert (found["kind"], codes(found)) == ("hidden", ["missing-privilege"])
    subprocess.run(found["findings"][0]["hint"], shell=True, check=True)
    assert examined(run=run_powerless)["findings"] == []


def test_a_check_that_takes_too_long_is_unknown_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Database(URL)) as database:
        insert_conversations(database, range(100, 3_100))
    monkeypatch.setattr(sqlite_doctor, "CHECK_SECONDS", 0.0)
    found = examined()
    unknown = [one["message"] for one in found["findings"] if one["code"] == "unknown"]
    assert any("integrity" in message for message in unknown)
    assert any("rows" in message for message in unknown)
    assert all("it exceeds the time limit" in message for message in unknown)
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

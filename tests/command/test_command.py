"""The command: help, wrong use, failures in one line, settings, and no password anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from lapse import ConversationService, Database
from lapse.store.operations.schema import head_version
from tests.support.backlog import BUSINESS, customer, insert_conversations
from tests.support.clock import ManualClock
from tests.support.commands import LAPSE, environment, error_line, run_here, run_lapse, run_program
from tests.support.sql import run_sql

EXAMPLE = Path(__file__).parents[2] / "examples" / "customer_care.csv"
SECRETS = ("hunter2", "hunter3")
UNREACHABLE = "postgresql://me:hunter2@127.0.0.1:1/chat?password=hunter3"
VARIABLES = {
    "worker": [
        "DATABASE_URL",
        "BACKGROUND_TASK_INTERVAL",
        "BACKGROUND_TASK_BATCH_SIZE",
        "BACKGROUND_TASK_BACKLOG_LIMIT",
        "BACKGROUND_TASK_ENABLE_METRICS",
        "CONVERSATION_IDLE_TIMEOUT_MINUTES",
        "CONVERSATION_EXPIRATION_MINUTES",
        "LOG_LEVEL",
    ],
    "migrate": ["DATABASE_URL"],
    "status": ["DATABASE_URL"],
    "doctor": ["DATABASE_URL"],
    "adopt": ["DATABASE_URL", "CONVERSATION_IDLE_TIMEOUT_MINUTES"],
    "unadopt": ["DATABASE_URL"],
    "preview": ["DATABASE_URL", "CONVERSATION_IDLE_TIMEOUT_MINUTES"],
    "purge": ["DATABASE_URL"],
    "replay": ["DATABASE_URL", "CONVERSATION_IDLE_TIMEOUT_MINUTES", "CONVERSATION_EXPIRATION_MINUTES"],
}


def test_the_module_and_the_program_are_the_same_command() -> None:
    program = Path(sys.executable).with_name("lapse")
    for arguments in (["--help"], ["--version"], ["worker", "--help"]):
        assert run_program(program, *arguments).stdout == run_program(*LAPSE, *arguments).stdout != ""


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("migrate", 0),
        ("status", 0),
        ("preview", 0),
        ("doctor", 0),
        ("worker --once", 0),
        ("purge --closed-before 1", 0),
        (f"replay {EXAMPLE}", 0),
        ("health", 1),  # nothing listens
        ("adopt", 2),  # for PostgreSQL only
        ("unadopt", 2),
    ],
)
def test_a_command_does_the_same_whichever_way_tests_start_it(command: str, code: int, tmp_path: Path) -> None:
    assert run_here("migrate").returncode == 0
    anew, forked = run_program(*LAPSE, *command.split()), run_lapse(*command.split())
    assert (anew.returncode, anew.stderr) == (forked.returncode, forked.stderr)
    assert anew.returncode == code, anew
    assert bool(anew.stdout) == bool(forked.stdout)


@pytest.mark.parametrize("command", VARIABLES)
def test_help_names_the_environment_variables(command: str) -> None:
    text = " ".join(run_here(command, "--help").stdout.split())
    for variable in VARIABLES[command]:
        assert variable in text


@pytest.mark.alone
def test_help_imports_nothing_heavy_and_is_quick() -> None:
    code = (
        "import sys, runpy; sys.argv = ['lapse', '--help']\n"
        "try: runpy.run_module('lapse', run_name='__main__')\n"
        "except SystemExit: print(sorted({'sqlalchemy', 'pydantic', 'alembic', 'psycopg'} & set(sys.modules)))"
    )
    assert run_program(sys.executable, "-c", code).stdout.endswith("[]\n")
    took = []
    for _ in range(5):
        begin = time.monotonic()
        assert run_program(*LAPSE, "--help").returncode == 0
        took.append(time.monotonic() - begin)
    assert min(took) < 0.4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["frobnicate"], "frobnicate"),
        (["worker", "--frobnicate"], "--frobnicate"),
        (["worker", "--interval", "soon"], "--interval"),
        (["worker", "--interval", "0"], "--interval 0 is not usable"),
        (["worker", "--batch-size", "0"], "--batch-size 0 is not usable"),
        (["worker", "--batch-size", "10001"], "--batch-size 10001 is not usable"),
        (["worker", "extra"], "extra"),
        (["migrate", "--database-url", "mysql://me:hunter2@db/chat"], "mysql"),
        (["migrate", "--database-url", "hunter2"], "database URL"),
        (["migrate", "--database-url", ""], "database URL"),
        (["status", "--database-url", "postgresql://me:hunter2@db:port/chat"], "database URL"),
        (["status", "--database-url", "sqlite:///:memory:"], "names no file"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], named: str) -> None:
    line = error_line(run_here(*arguments), 2)
    assert named in line
    assert not any(secret in line for secret in SECRETS)


def test_without_a_command_it_shows_its_help_and_fails() -> None:
    result = run_here()
    assert result.returncode == 2
    assert "migrate" in result.stdout


@pytest.mark.parametrize("arguments", [["migrate"], ["status"], ["status", "--json"], ["worker", "--once"]])
def test_an_unreachable_database_is_one_line_and_exit_code_1(arguments: list[str]) -> None:
    for options, variables in (([], {"DATABASE_URL": UNREACHABLE}), (["--database-url", UNREACHABLE], {})):
        begin = time.monotonic()
        given = run_lapse(*arguments, *options, env=variables)
        assert time.monotonic() - begin < 8, "who waits at a prompt is told at once, without retries of ten seconds"
        assert "not available" in error_line(given, 1)
        assert not any(secret in given.stderr for secret in SECRETS)


def test_a_traceback_is_only_for_who_asks_for_it_and_holds_no_password() -> None:
    result = run_lapse("migrate", env={"DATABASE_URL": UNREACHABLE, "LOG_LEVEL": "DEBUG"})
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("lapse: ")
    assert not any(secret in result.stderr + result.stdout for secret in SECRETS)


@pytest.mark.parametrize("arguments", [["migrate"], ["worker", "--once"]])
def test_an_unusable_sqlite_file_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database\n" * 100, encoding="utf-8")
    for name in ("missing/lapse.db", "text.db", "."):
        assert error_line(run_here(*arguments, "--database-url", f"sqlite:///{name}"), 1)
    assert (tmp_path / "text.db").read_text(encoding="utf-8").startswith("this is no database")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("arguments", [["worker"], ["worker", "--once"], ["status"]])
def test_postgresql_without_a_schema_is_told_to_migrate(empty_postgres_url: str, arguments: list[str]) -> None:
    result = run_lapse(*arguments, "--database-url", empty_postgres_url)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "run `lapse migrate`" in line


def test_a_foreign_table_is_refused(empty_database_url: str) -> None:
    with closing(Database(empty_database_url)) as database:
        run_sql(database, "CREATE TABLE conversations (id integer)")
    assert "did not make" in error_line(run_here("migrate", "--database-url", empty_database_url), 1)


def test_migrate_says_what_it_did(empty_database_url: str) -> None:
    first = run_here("migrate", "--database-url", empty_database_url)
    second = run_here("migrate", "--database-url", empty_database_url)
    assert f"created the schema, version {head_version()}" in first.stdout
    assert "nothing to do" in second.stdout
    assert (first.returncode, second.returncode) == (0, 0)


def test_status_counts_what_is_open_and_due(database_url: str, database: Database) -> None:
    with closing(ConversationService(database_url)) as service:
        answered = service.record_message(1, BUSINESS, customer(1), sender="agent")
    insert_conversations(database, range(10, 13), silent_for=timedelta(minutes=31))
    insert_conversations(database, range(20, 22), expires_in=-timedelta(minutes=1), status="idle_timeout")
    result = run_here("status", "--json", "--database-url", database_url)
    found = json.loads(result.stdout)
    assert found["open"] == {"pending": 3, "progress": 1, "idle_timeout": 2}
    assert found["due"] == {"idle_conversations": 3, "expired_conversations": 2}
    assert found["schema_version"] == head_version()
    assert found["next_deadline"] < answered.idle_check_at.isoformat()
    assert found["next_deadline"].endswith("Z")
    text = run_here("status", "--database-url", database_url).stdout
    for name, number in (("open, pending", 3), ("open, progress", 1), ("due now, expired_conversations", 2)):
        assert f"{name}:" in text
        assert any(line.startswith(name) and line.split()[-1] == str(number) for line in text.splitlines())
    assert head_version() in text


def test_status_makes_no_database(tmp_path: Path) -> None:
    assert "lapse migrate" in error_line(run_here("status"), 1)
    assert list(tmp_path.iterdir()) == []


def test_one_cycle_ends_what_is_due(database_url: str, database: Database) -> None:
    insert_conversations(database, range(250), silent_for=timedelta(minutes=31))
    insert_conversations(database, range(250, 600), expires_in=-timedelta(minutes=1))
    result = run_lapse("worker", "--once", "--batch-size", "100", "--no-metrics", "--database-url", database_url)
    assert (result.returncode, result.stderr) == (0, "")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["task"], line["count"]) for line in lines if line["event"] == "task processed"] == [
        ("idle_conversations", 250),
        ("expired_conversations", 350),
    ]
    assert all({"timestamp", "level", "event"} <= set(line) for line in lines)
    assert customer(0)[2:] not in result.stdout


def test_a_missing_sqlite_schema_is_made_by_the_worker(tmp_path: Path) -> None:
    assert run_here("worker", "--once").returncode == 0
    assert (tmp_path / "lapse.db").exists()
    assert run_here("status").returncode == 0


def test_options_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///file.db\n", encoding="utf-8")
    migrate = ["migrate"]
    assert run_lapse(*migrate).returncode == 0
    assert run_lapse(*migrate, env={"DATABASE_URL": "sqlite:///environment.db"}).returncode == 0
    option = run_lapse(
        *migrate, "--database-url", "sqlite:///option.db", env={"DATABASE_URL": "sqlite:///environment2.db"}
    )
    assert option.returncode == 0
    assert {path.name for path in tmp_path.glob("*.db")} == {"file.db", "environment.db", "option.db"}


@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_bad_setting_is_one_line_that_names_it(place: str, tmp_path: Path) -> None:
    setting = {"CONVERSATION_IDLE_TIMEOUT_MINUTES": "half an hour"}
    if place == "file":
        (tmp_path / ".env").write_text("CONVERSATION_IDLE_TIMEOUT_MINUTES=half an hour\n", encoding="utf-8")
        setting = {}
    for command in ("worker", "migrate", "status"):
        assert "CONVERSATION_IDLE_TIMEOUT_MINUTES" in error_line(run_lapse(command, env=setting), 2)


def test_a_reader_that_has_gone_is_no_error_of_ours() -> None:
    with subprocess.Popen(
        [*LAPSE, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_the_clock_of_the_database_is_not_that_of_the_service(database_url: str, clock: ManualClock) -> None:
    with closing(ConversationService(database_url, clock=clock)) as service:
        opened = service.record_message(1, customer(1), BUSINESS)
    assert run_lapse("worker", "--once", "--database-url", database_url).returncode == 0
    with closing(ConversationService(database_url)) as service:
        assert service.get_conversation_by_id(opened.conv_id).status == "expired", "January is long past"

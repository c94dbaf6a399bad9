"""Log lines: of one form, quiet when nothing happens, and without a whole address in whatever happens."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lapse import ConversationService, Database
from tests.support.backlog import insert_conversations
from tests.support.commands import RunningLapse, environment, run_lapse, running_lapse
from tests.support.sql import run_sql

EXAMPLE = Path(__file__).parents[2] / "examples/customer_care.csv"
SECRET = "+5511987654321"
DIGITS = re.compile(r"[0-9]{8,15}")


def addresses_of_the_example() -> set[str]:
    with EXAMPLE.open(encoding="utf-8", newline="") as file:
        return {row[name] for row in csv.DictReader(file) for name in ("from_number", "to_number")}


def assert_no_address_in(text: str, addresses: Iterable[str]) -> None:
    """Look for each address as such, and without its plus and its country code."""
    whole = set(DIGITS.findall(text))
    for address in addresses:
        digits = address.removeprefix("+")
        assert digits not in text, f"{address} in {text}"
        assert digits[2:] not in whole, f"{address} in {text}"


def log_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_search_for_addresses_finds_them() -> None:
    for text in ("from +5511987654321", "whatsapp:5511987654321::", '{"x": "11987654321"}'):
        with pytest.raises(AssertionError):
            assert_no_address_in(text, [SECRET])
    assert_no_address_in("+5511*****4321 0199f5511987", [SECRET])


def test_a_whole_replay_and_the_worker_after_it_name_no_address(database_url: str, database: Database) -> None:
    addresses = addresses_of_the_example()
    assert len(addresses) > 100
    replayed = run_lapse("replay", EXAMPLE, "--json", env={"LOG_LEVEL": "DEBUG"})
    assert replayed.returncode == 0
    assert_no_address_in(replayed.stdout + replayed.stderr, addresses)
    with closing(ConversationService(database)) as service, EXAMPLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            service.record_message(1, row["from_number"], row["to_number"], row["channel"], row["sender"])
    run_sql(database, "UPDATE conversations SET expires_at = started_at")
    worked = run_lapse("worker", "--once", "--database-url", database_url, env={"LOG_LEVEL": "DEBUG"})
    assert worked.returncode == 0
    assert "task processed" in worked.stdout
    assert_no_address_in(worked.stdout + worked.stderr, addresses)


# What an application may have put into its database: each makes the sweep fail in another way, saying an address.
TROUBLES = {
    "a trigger that refuses": [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RAISE EXCEPTION ''not % (%)'', old.from_number, old.session_key USING DETAIL = old.from_number; END'",
        "CREATE TRIGGER refuse BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
    "a constraint": ["ALTER TABLE conversations ADD CONSTRAINT bad CHECK (status <> 'expired') NOT VALID"],
    "a unique index": ["CREATE UNIQUE INDEX once ON conversations (from_number, status)"],
    "a value that is none": [
        "ALTER TABLE conversation_events ADD COLUMN n int",
        "ALTER TABLE conversation_events ALTER COLUMN n SET DEFAULT concat('no +5511987654321')::int",
    ],
    "a cast in a trigger": [
        "CREATE FUNCTION cast_it() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN new.context = (old.from_number || ''x'')::jsonb; RETURN new; END'",
        "CREATE TRIGGER cast_it BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION cast_it()",
    ],
    "a column that is not there": ["ALTER TABLE conversation_events RENAME COLUMN data TO data_of_5511987654321"],
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_provoked_errors_name_no_address(trouble: str, postgres_url: str) -> None:
    with closing(ConversationService(postgres_url)) as service:
        service.record_message(1, SECRET, "+14155238886")
        expired = service.record_message(2, SECRET, "+14155238886")
        service.close_conversation(expired.conv_id, "failed")
        run_sql(service.database, "UPDATE conversations SET expires_at = started_at")
        run_sql(service.database, "UPDATE conversations SET status = 'expired' WHERE owner_id = 2")
        for statement in TROUBLES[trouble]:
            run_sql(service.database, statement)
    with running_lapse("worker", "--database-url", postgres_url, env={"LOG_LEVEL": "DEBUG"}) as worker:
        worker.wait_for_line({"level": "error"})
        worker.stop(signal.SIGTERM)
        assert_no_address_in(json.dumps(worker.log) + worker.stderr, [SECRET, "+14155238886"])


LIBRARIES = """
import logging, sys, warnings
from lapse.logs import configure_logging
configure_logging("INFO", sys.stdout)
logging.getLogger("psycopg").warning("error ignored in rollback on %s", "+5511987654321")
logging.getLogger("alembic.runtime.migration").info("Will assume transactional DDL.")
warnings.warn("soon gone: +5511987654321", DeprecationWarning)
try:
    raise ValueError("+5511987654321")
except ValueError:
    logging.getLogger("waitress").exception("Exception while serving")
"""


def test_what_libraries_say_has_the_same_form() -> None:
    shown = subprocess.run(
        [sys.executable, "-W", "always", "-c", LIBRARIES], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stderr == ""
    lines = log_of(shown.stdout)
    assert [(line["library"], line["level"]) for line in lines] == [
        ("psycopg", "warning"),
        ("py.warnings", "warning"),
        ("waitress", "error"),
    ]
    assert lines[0]["event"] == "error ignored in rollback on +5511*****4321"
    assert "ValueError: +5511*****4321" in lines[2]["exception"]
    assert_no_address_in(shown.stdout, [SECRET])


THREADS = """
import logging, sys, threading
import structlog
from lapse.logs import configure_logging
configure_logging("INFO", sys.stdout)
of_lapse, of_library = structlog.get_logger("lapse").info, logging.getLogger("waitress").warning
def speak(say):
    for _ in range(6000):
        say("something")
threads = [threading.Thread(target=speak, args=(say,)) for say in (of_lapse, of_library)]
for thread in threads:
    thread.start()
"""


def test_lines_of_several_threads_do_not_mix() -> None:
    env = environment({"PYTHONUNBUFFERED": "1"})  # as in many images
    shown = subprocess.run([sys.executable, "-c", THREADS], env=env, capture_output=True, text=True, check=True)
    assert len(log_of(shown.stdout)) == 12_000


def _run_dry(worker: RunningLapse) -> list[dict[str, Any]]:
    worker.stop(signal.SIGTERM)
    return worker.log


def test_every_line_has_its_time_its_level_and_its_event(database_url: str, database: Database) -> None:
    insert_conversations(database, range(3), expires_in=-timedelta(minutes=1))
    insert_conversations(database, range(3, 5), silent_for=timedelta(minutes=31))
    options = ("--interval", "0.05", "--min-wait", "0", "--http", "127.0.0.1:0")
    with running_lapse("worker", "--database-url", database_url, *options) as worker:
        metrics = worker.wait_for("metrics")
        lines = _run_dry(worker)
    assert all({"timestamp", "level", "event"} <= set(line) for line in lines)
    processed = {line["task"]: line for line in lines if line["event"] == "task processed"}
    assert (processed["idle_conversations"]["count"], processed["expired_conversations"]["count"]) == (2, 3)
    for line in processed.values():
        assert (line["cycle"], line["execution_time_seconds"] > 0) == (1, True)
    assert processed["idle_conversations"]["idle_minutes"] == 30
    assert "idle_minutes" not in processed["expired_conversations"]
    assert metrics["cycle"] == 10
    assert metrics["tasks"]["idle_conversations"]["total_items_processed"] == 2
    assert metrics["tasks"]["expired_conversations"]["success_rate"] == 1


def test_nothing_is_said_when_nothing_happens(database_url: str) -> None:
    options = ("--interval", "0.02", "--min-wait", "0", "--no-metrics")
    with running_lapse("worker", "--database-url", database_url, *options) as worker:
        worker.wait_for("worker started")
        with pytest.raises(AssertionError, match="no 'task processed' in 1 seconds"):
            worker.wait_for("task processed", timeout=1)
        lines = _run_dry(worker)
    assert [line["event"] for line in lines] == ["worker started", "worker stopped"]
    assert lines[-1]["cycles"] > 10

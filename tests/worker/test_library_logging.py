"""lapse inside an application: it logs as libraries do, and neither prints nor configures anything."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from lapse import BackgroundWorker, ConversationService, Database
from lapse.logs import EventLogger
from tests.support.commands import environment
from tests.support.sql import run_sql

QUIET = """
import logging
def state():
    return {
        name: (logger.level, logger.handlers[:], logger.propagate, logger.disabled)
        for name, logger in [("root", logging.root), *logging.Logger.manager.loggerDict.items()]
        if isinstance(logger, logging.Logger)
    }
logging.getLogger("mine")
alembics = logging.getLogger("alembic.runtime.migration")
alembics.setLevel(logging.ERROR)
before = state()
from lapse import BackgroundWorker, ConversationService, Database, migrate
service = ConversationService("sqlite:///first.db")
service.record_message(1, "+5511990000001", "+14155238886")
database = Database("sqlite:///other.db")
migrate(database)
database.close()
worker = BackgroundWorker(service=service)
assert worker.run_once()
after = state()
assert {name: after[name] for name in before} == before, (before, after)
assert all(not disabled for *_, disabled in after.values())
assert {type(handler) for _, handlers, *_ in after.values() for handler in handlers} == {logging.NullHandler}
"""


@pytest.mark.parametrize("level", ["DEBUG", "LOUD"])
def test_a_library_prints_nothing_and_leaves_every_logger_alone(level: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", QUIET],
        env=environment({"LOG_LEVEL": level}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_failed_task_is_a_record_with_its_fields_and_no_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lapse")
    service = ConversationService(f"sqlite:///{tmp_path}/chat.db")
    with closing(service), closing(Database(f"sqlite:///{tmp_path}/chat.db")) as other:
        service.record_message(1, "+5511987654321", "+14155238886")
        run_sql(other, "UPDATE conversations SET expires_at = started_at")
        run_sql(
            other,
            "CREATE TRIGGER refuse BEFORE UPDATE ON conversations BEGIN SELECT raise(ABORT, 'not +5511987654321'); END",
        )
        BackgroundWorker(service=service).run_once()
    record = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.name.startswith("lapse.")
    assert record.getMessage().startswith("conversation refused ")
    fields = record.lapse  # type: ignore[attr-defined]
    assert fields["event"] == "conversation refused"
    assert fields["task"] == "expired_conversations"
    assert "error='" in record.getMessage()
    assert "+5511*****4321" in record.getMessage()
    assert "5511987654321" not in record.getMessage() + str(fields)


def test_an_event_is_text_and_values_and_says_where_it_is_from(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "lapse")
    log = EventLogger("lapse.example")
    log.info("not wanted")
    log.error("task failed", task="idle", count=3, error="no +5511987654321", exception="Traceback: +5511987654321")
    (record,) = caplog.records
    assert record.getMessage() == "task failed task='idle' count=3 error='no +5511*****4321'\nTraceback: +5511*****4321"
    assert record.lapse == {  # type: ignore[attr-defined]
        "task": "idle",
        "count": 3,
        "error": "no +5511*****4321",
        "exception": "Traceback: +5511*****4321",
        "event": "task failed",
    }
    assert (record.module, record.funcName[:16]) == (Path(__file__).stem, "test_an_event_is")


COMMAND = """
import logging, sys
from lapse.logs import EventLogger, configure_logging
configure_logging("INFO", sys.stdout)
EventLogger("lapse.worker.worker").info("worker started", database="sqlite:///a.db", max_rate=None, task="x", n=1.5)
"""


def test_the_fields_of_a_log_line_have_their_order() -> None:
    ran = subprocess.run([sys.executable, "-c", COMMAND], env=environment(), capture_output=True, text=True, check=True)
    line = json.loads(ran.stdout)
    assert list(line) == ["database", "max_rate", "task", "n", "event", "level", "timestamp"]
    assert ran.stdout.startswith('{"database": "sqlite:///a.db", "max_rate": null, "task": "x", "n": 1.5, "event": ')

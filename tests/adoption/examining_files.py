"""A healthy file of lapse's in the test's folder, and what the doctor finds once something was done to it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from lapse import ConversationService
from tests.support.backlog import BUSINESS, customer
from tests.support.commands import environment, run_here
from tests.support.require_program import missing

FILE = Path("lapse.db")
URL = f"sqlite:///{FILE}"


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
    return sorted(f"({one['code']})" if one["level"] == "warning" else one["code"] for one in found["findings"])


def the_finding(run: Callable[..., Any] = run_here) -> dict[str, str]:
    (finding,) = examined(run=run)["findings"]
    assert isinstance(finding, dict)
    return finding


def run_in_shell(command: str) -> None:
    if shutil.which("sqlite3") is None:
        missing("there is no sqlite3 on this machine (Debian's package sqlite3 has it)")
    subprocess.run(command, shell=True, check=True, env=environment(), capture_output=True)

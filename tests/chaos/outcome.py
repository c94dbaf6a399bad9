"""The outcome of a full run: what was done, what came of it, and on which machine, appended to `results/`."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lapse
from lapse import Database
from tests.chaos import scale
from tests.support.sql import run_sql

RESULTS = Path(__file__).with_name("results")


class Outcome:
    """The counts and times of one fault."""

    def __init__(self, fault: str, case: str = "") -> None:
        self.fault = fault
        self.case = case
        self.counts: dict[str, float] = {}
        self.server = f"SQLite {sqlite3.sqlite_version}"

    def add(self, database: Database | None = None, **counts: float) -> None:
        """Note what was counted, and the database that it was counted on."""
        self.counts |= counts
        self._see(database)

    def count(self, database: Database, **more: float) -> None:
        """Add to what was counted so far, on this kind of database."""
        for name, number in more.items():
            self.counts[name] = self.counts.get(name, 0) + number
        self._see(database)

    def _see(self, database: Database | None) -> None:
        if database is not None and database.dialect == "postgresql":
            version = run_sql(database, "SELECT current_setting('server_version')")[0][0]
            self.server = f"PostgreSQL {version.partition(' ')[0]}"

    def as_dict(self, seconds: float) -> dict[str, Any]:
        """Return all of it, JSON-ready."""
        return {
            "fault": self.fault,
            "case": self.case,
            "date": datetime.now(UTC).date().isoformat(),
            "seed": scale.seed(),
            "seconds": round(seconds),
            "machine": machine(),
            "versions": {"lapse": lapse.__version__, "python": platform.python_version(), "database": self.server},
            "counts": self.counts,
        }

    def append(self, seconds: float) -> None:
        """Append it to the fault's file of results."""
        file = RESULTS / f"{self.fault}.json"
        runs = json.loads(file.read_text()) if file.exists() else []
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps([*runs, self.as_dict(seconds)], indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Return the kind of machine, without its name."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")), cpu
        )
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gb": round(pages * size / 2**30), "system": platform.system()}

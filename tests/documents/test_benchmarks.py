"""The benchmarks run: tiny, so that nothing is learned of speed, but whole."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.results import read_records
from tests.support.commands import environment

ROOT = Path(__file__).parents[2]
QUICK_ONES = (
    "ending",
    "pinned",
    "plans",
    "message_postgresql",
    "message_sqlite",
    "wal",
    "messages_lists",
    "messages_hot",
    "receipts",
    "drain_latency",
    "memory",
    "idle",
    "scrape",
    "active",
    "threads",
    "deadlines",
    "replay",
    "replay_before",
)
"""The others use the same parts, and take longer."""
MAY_SINK = {
    "slope of the resident memory over 10,000 cycles",
    "growth of the resident memory over the last nine tenths of a dense log",
    "lapse's own time for a message",
}
"""Differences: of two short slices of a busy machine the bare driver's may be the slower one."""


def test_the_benchmarks_run_and_what_they_find_can_be_reported(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path), *QUICK_ONES]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    records = read_records(tmp_path)
    assert set(records) == set(QUICK_ONES)
    for record in records.values():
        for figure in record.outcome.figures:
            assert math.isfinite(figure.measured), (record.benchmark, figure)
            assert figure.measured >= 0 or figure.name in MAY_SINK, (record.benchmark, figure)
    document = report.text_of(tmp_path)
    for record in records.values():
        for figure in record.outcome.figures:
            assert f"{figure.name}: {report.measured(figure)}" in document


def test_a_benchmark_that_fails_is_named_and_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "message_sqlite.json").mkdir()  # nothing can be kept there
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path), "message_sqlite", "replay"]
    run = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 1
    assert run.stderr.endswith("failed: message_sqlite\n")
    assert (tmp_path / "replay.json").is_file()


def test_a_name_that_is_no_benchmark_is_one_clear_line() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "lagg"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "there is no benchmark lagg" in run.stderr

"""docs/performance.md is what the committed results say, and says what was not reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import plots, report
from benchmarks.registry import NAMES
from benchmarks.results import Figure, Goal, Outcome, Record, quantile, quantiles, read_records, write_record

RECORD = Record(
    benchmark="lag",
    date="2026-11-25",
    scale={"rows": 1.0, "seconds": 1.0, "rounds": 1.0},
    seconds=1.0,
    machine={
        "cpu": "a",
        "cores": 2,
        "memory_gib": 1.0,
        "system": "Linux",
        "disk": "ext4",
        "fdatasync_ms": 0.2,
        "load_before": 0.1,
    },
    versions={"lapse": "0"},
    server_settings={"fsync": "on"},
    outcome=Outcome(
        figures=[Figure("late", 1.234, "s", Goal(1.5, at_most=True)), Figure("fast", 3_100.4, "1/s", Goal(4_000))],
        parameters={"rows": 1_000},
        raw={"lags": [1, 2.5, 3]},
        texts={"plan": "Seq Scan"},
    ),
)


def test_the_document_is_what_the_committed_results_say() -> None:
    assert report.DOCUMENT.read_text(encoding="utf-8") == report.text_of(), "run `python -m benchmarks report`"


def test_every_committed_result_that_is_drawn_has_its_picture() -> None:
    pictures = {path.stem for path in plots.FOLDER.glob("*.svg")}
    assert pictures == {found.name for found in plots.drawn()} & set(read_records())


def test_every_figure_that_a_text_speaks_of_is_among_the_committed_results() -> None:
    unknown = report.text_of().count("(not measured)")
    assert unknown == 0 or set(NAMES) - set(read_records())


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_records(tmp_path) == {"lag": RECORD}
    assert '"lags": [1, 2.5, 3]' in (tmp_path / "lag.json").read_text(encoding="utf-8")


def test_a_text_that_is_no_longer_made_is_removed(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    write_record(tmp_path, replace(RECORD, outcome=replace(RECORD.outcome, texts={})))
    assert [path.name for path in tmp_path.iterdir()] == ["lag.json"]


def test_what_missed_its_goal_is_reported_as_such(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    document = report.text_of(tmp_path)
    assert "| ≤ 1.5 s | 1.23 s | yes |" in document
    assert "| ≥ 4,000 a second | 3,100 a second | **no** |" in document
    assert "not measured" in document  # the other benchmarks
    assert "smaller run" not in document


def test_a_smaller_run_is_reported_as_such(tmp_path: Path) -> None:
    write_record(tmp_path, replace(RECORD, scale={"rows": 0.1, "seconds": 1.0, "rounds": 1.0}))
    assert "**This was a smaller run** (rows x 0.1)" in report.text_of(tmp_path)


@pytest.mark.parametrize(("bound", "at_most", "reached"), [(2, True, True), (1.9, True, False), (2, False, True)])
def test_a_goal_is_reached_at_its_very_bound(bound: float, at_most: bool, reached: bool) -> None:
    assert Figure("", 2, goal=Goal(bound, at_most)).is_reached is reached


def test_quantiles_lie_between_neighbours() -> None:
    assert quantile([1, 2, 4], 0.75) == 3
    assert quantiles([3, 1, 2], parts=2) == [1, 2, 3]

"""docs/reliability.md says what the full runs of the faults have found."""

from __future__ import annotations

from tests.chaos.report import DOCUMENT, ROWS, latest_runs, text_with_table


def test_the_table_is_made_from_the_results() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == text_with_table(text), "run `python -m tests.chaos.report`"


def test_every_fault_with_results_is_in_the_table() -> None:
    assert {(row.fault, row.case) for row in ROWS} == set(latest_runs())

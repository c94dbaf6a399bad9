"""What a replay shows to people: the summary, the picture of open conversations, the progress of a long log."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.commands import run_here, run_lapse
from tests.support.terminal import run_with_terminal_for_errors

HEADER = "at,owner_id,from_number,to_number,channel,sender\n"
START = datetime(2020, 1, 31, 12, tzinfo=UTC)
LONG = 2_100


def write_log(moments: list[timedelta], customers: int) -> Path:
    """Write a log in which the customers take turns."""
    lines = [
        f"{(START + moment).isoformat()},1,customer-{index % customers},widget,webchat,user\n"
        for index, moment in enumerate(moments)
    ]
    path = Path("log.csv")
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def three_days() -> Path:
    """Return a log of three conversations at once on the first day, and one on the third."""
    return write_log([timedelta(minutes=minute) for minute in (0, 1, 2)] + [timedelta(days=2)], 3)


def test_the_summary_and_a_picture_are_shown(three_days: Path) -> None:
    result = run_lapse("replay", three_days, env={"COLUMNS": "60"})
    assert (result.returncode, result.stderr) == (0, "")
    summary, drawn = result.stdout.split("\n\n")
    assert summary.splitlines() == [
        "idle after 30 minutes, expired after 1440",
        "4  messages",
        "4  conversations",
        "4  idle timeouts",
        "0  reactivations",
        "4  expired",
    ]
    title, *picture, axis = drawn.splitlines()
    assert title == "open conversations"
    assert axis.split() == ["2020-01-31", "2020-02-03"]
    assert {len(axis), max(map(len, picture))} == {60}
    # Three open at once for a third of the time, none for a third, one for a third.
    highest, lowest = picture[0], picture[-1]
    assert (highest[:3], lowest[:3]) == (" 3 ", " 0 ")
    assert set(highest[3:]) == {"█"}
    many, nothing, few = highest.count("█"), lowest[3:].rstrip().count(" "), len(picture[5][3:].split()[-1])
    assert all(17 <= columns <= 21 for columns in (many, nothing, few)), picture


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_gets_an_ascii_picture(three_days: Path, encoding: str) -> None:
    result = run_lapse("replay", three_days, env={"PYTHONIOENCODING": encoding})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.isascii()
    assert "###" in result.stdout


@pytest.mark.parametrize("columns", ["1", "0", "20", "nonsense", "1000"])
def test_a_terminal_of_any_width_gets_a_picture(
    three_days: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    result = run_here("replay", three_days)
    assert (result.returncode, result.stderr) == (0, "")
    assert "open conversations" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_timeouts_are_shown_as_they_were_given(three_days: Path) -> None:
    result = run_lapse("replay", three_days, "--idle-minutes", "0.5", "--expiration-minutes", "10080")
    assert result.stdout.startswith("idle after 0.5 minutes, expired after 10080\n4  messages\n3  conversations\n")


@pytest.fixture
def long_log() -> Path:
    """Return a log long enough for a progress bar."""
    return write_log([timedelta(milliseconds=index) for index in range(LONG)], 1)


def test_the_progress_of_a_long_log_is_shown_on_a_terminal_only(long_log: Path) -> None:
    result = run_lapse("replay", long_log, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["messages"] == LONG
    code, out, err = run_with_terminal_for_errors("replay", str(long_log), "--json")
    assert (code, out) == (0, result.stdout)
    assert "messages" in err
    assert f"/{LONG}" in err


def test_a_short_log_has_no_progress(three_days: Path) -> None:
    code, out, err = run_with_terminal_for_errors("replay", str(three_days), "--json")
    assert (code, json.loads(out)["messages"], err) == (0, 4, "")

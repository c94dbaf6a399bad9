"""Numbers over time, drawn with the characters of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

_EIGHTHS = " ▁▂▃▄▅▆▇█"
HEIGHT = 8
MIN_WIDTH, MAX_WIDTH = 20, 100


def draw_open_conversations(
    lifetimes: Sequence[tuple[datetime, datetime | None]], width: int, *, is_unicode: bool = True
) -> str:
    """Return a picture: per column the most conversations that were open at once in its stretch of time.

    Args:
        lifetimes: begin and end of each conversation.
        width: columns of the terminal.
        is_unicode: False draws with ASCII only.
    """
    if not lifetimes:
        return "no conversations"
    begin = min(started for started, _ in lifetimes)
    end = max(ended or started for started, ended in lifetimes)
    margin = len(str(len(lifetimes))) + 2
    peaks = peaks_of(lifetimes, begin, end, max(MIN_WIDTH, min(MAX_WIDTH, width) - margin))
    days = f"{begin:%Y-%m-%d}", f"{end:%Y-%m-%d}"
    return draw_columns("open conversations", peaks, days, margin=margin, is_unicode=is_unicode)


def draw_columns(
    title: str,
    peaks: Sequence[int],
    ends: tuple[str, str],
    *,
    height: int = HEIGHT,
    margin: int | None = None,
    is_unicode: bool = True,
) -> str:
    """Return a picture of numbers, each a column.

    Args:
        title: stands above it.
        peaks: the numbers.
        ends: what stands under the first and the last column.
        height: lines of the highest column.
        margin: width of what stands before the columns; default is what the greatest number needs.
        is_unicode: False draws with ASCII only.
    """
    top = max(peaks)
    margin = len(str(top)) + 2 if margin is None else margin
    lines = [
        f"{_label(row, top, height):>{margin - 1}} "
        + "".join(_cell(peak, top, row, height, is_unicode) for peak in peaks)
        for row in range(height, 0, -1)
    ]
    first, last = ends
    axis = " " * margin + first + last.rjust(len(peaks) - len(first))
    return "\n".join([title, *(line.rstrip() for line in lines), axis])


def peaks_of(
    lifetimes: Sequence[tuple[datetime, datetime | None]],
    begin: datetime,
    end: datetime,
    columns: int,
) -> list[int]:
    """Return, per column, the most conversations that were open at once."""
    changes = [(started, 1) for started, _ in lifetimes] + [(ended, -1) for _, ended in lifetimes if ended]
    # Ends first: a conversation that opens when another ends is not open at once with it.
    changes.sort()
    peaks, level = [0] * columns, 0
    span = (end - begin) / columns
    marks = [*changes, (end, 0)]
    for (moment, change), (following, _) in pairwise(marks):
        level += change
        first = _column(moment, begin, span, columns)
        for column in range(first, _column(following, begin, span, columns) + 1):
            peaks[column] = max(peaks[column], level)
    return peaks


def _column(moment: datetime, begin: datetime, span: timedelta, columns: int) -> int:
    return min(columns - 1, (moment - begin) // span) if span else 0


def _label(row: int, top: int, height: int) -> str:
    return str(top) if row == height else "0" if row == 1 else ""


def _cell(peak: int, top: int, row: int, height: int, is_unicode: bool) -> str:
    eighths = round(peak / top * height * 8) if top else 0
    if peak:
        eighths = max(eighths, 1)  # something is never drawn as nothing
    filled = min(8, max(0, eighths - (row - 1) * 8))
    return _EIGHTHS[filled] if is_unicode else ("#" if filled else " ")

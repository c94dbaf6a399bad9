"""Charts of numbers over time, drawn with characters for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lapse.store.chronicle import Chronicle

_EIGHTHS = " ▁▂▃▄▅▆▇█"
HEIGHT = 8
MIN_WIDTH, MAX_WIDTH = 20, 100


def draw_open_conversations(chronicle: Chronicle, width: int, *, is_unicode: bool = True) -> str:
    """Return a chart for a terminal with `width` columns; each column is the maximum of its interval."""
    span = chronicle.lifetime()
    if span is None:
        return "no conversations"
    begin, end = span
    margin = len(str(chronicle.count_conversations())) + 2
    peaks = _peaks(begin, end, max(MIN_WIDTH, min(MAX_WIDTH, width) - margin), chronicle.changes())
    days = begin.date().isoformat(), end.date().isoformat()
    return draw_columns("open conversations", peaks, days, margin=margin, is_unicode=is_unicode)


def _peaks(begin: datetime, end: datetime, columns: int, changes: Iterable[tuple[datetime, int]]) -> list[int]:
    """Return the highest number of open conversations in each of several intervals of equal length.

    `changes` are the moments at which the number changes, each with the difference, in order of time; it begins at 0.
    """
    interval = (end - begin) / columns
    peaks, level, first = [0] * columns, 0, 0
    for moment, change in chain(changes, [(end, 0)]):
        last = min(columns - 1, (moment - begin) // interval) if interval else 0
        for column in range(first, last + 1):
            peaks[column] = max(peaks[column], level)
        level, first = level + change, last
    return peaks


def draw_columns(
    title: str,
    peaks: Sequence[int],
    ends: tuple[str, str],
    *,
    height: int = HEIGHT,
    margin: int | None = None,
    is_unicode: bool = True,
) -> str:
    """Return a chart with a column for each number, and labels under the first and the last one.

    The highest column has `height` lines; before the columns are `margin` characters, by default as many as needed.
    """
    top = max(peaks)
    margin = len(str(top)) + 2 if margin is None else margin
    labels = {1: "0", height: str(top)}
    lines = [
        f"{labels.get(row, ''):>{margin - 1}} " + "".join(_cell(peak, top, row, height, is_unicode) for peak in peaks)
        for row in range(height, 0, -1)
    ]
    first, last = ends
    axis = " " * margin + first + last.rjust(len(peaks) - len(first))
    return "\n".join([title, *(line.rstrip() for line in lines), axis])


def _cell(peak: int, top: int, row: int, height: int, is_unicode: bool) -> str:
    eighths = round(peak / top * height * 8) if top else 0
    if peak:
        eighths = max(eighths, 1)  # what is not zero is visible
    filled = min(8, max(0, eighths - (row - 1) * 8))
    return _EIGHTHS[filled] if is_unicode else ("#" if filled else " ")

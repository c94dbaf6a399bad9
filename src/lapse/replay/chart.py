"""Charts of numbers over time, drawn with characters for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lapse.store.chronicle import Chronicle

_EIGHTHS = " ▁▂▃▄▅▆▇█"
HEIGHT = 8
MIN_WIDTH, MAX_WIDTH = 20, 100


def draw_open_conversations(chronicle: Chronicle, width: int, *, is_unicode: bool = True) -> str:
    """Return a chart of the open conversations; each column is the maximum of its interval.

    Args:
        chronicle: the conversations.
        width: columns of the terminal.
        is_unicode: False draws with ASCII only.
    """
    span = chronicle.lifetime()
    if span is None:
        return "no conversations"
    begin, end = span
    margin = len(str(chronicle.count_conversations())) + 2
    peaks = Peaks(begin, end, max(MIN_WIDTH, min(MAX_WIDTH, width) - margin))
    for moment, change in chronicle.changes():
        peaks.add(moment, change)
    days = begin.date().isoformat(), end.date().isoformat()
    return draw_columns("open conversations", peaks.finish(), days, margin=margin, is_unicode=is_unicode)


class Peaks:
    """The maximum number of conversations that were open at once, in each of several intervals of equal length."""

    def __init__(self, begin: datetime, end: datetime, columns: int) -> None:
        """Divide the time from `begin` to `end` into so many intervals; no conversation is open yet."""
        self._begin, self._end, self._columns = begin, end, columns
        self._interval = (end - begin) / columns
        self._peaks, self._level, self._since = [0] * columns, 0, begin

    def add(self, moment: datetime, change: int) -> None:
        """Add a change of the number of open conversations; calls are in order of time."""
        self._record_level_until(moment)
        self._level += change

    def finish(self) -> list[int]:
        """Return the maximum of each interval."""
        self._record_level_until(self._end)
        return self._peaks

    def _record_level_until(self, moment: datetime) -> None:
        for column in range(self._column(self._since), self._column(moment) + 1):
            self._peaks[column] = max(self._peaks[column], self._level)
        self._since = moment

    def _column(self, moment: datetime) -> int:
        return min(self._columns - 1, (moment - self._begin) // self._interval) if self._interval else 0


def draw_columns(
    title: str,
    peaks: Sequence[int],
    ends: tuple[str, str],
    *,
    height: int = HEIGHT,
    margin: int | None = None,
    is_unicode: bool = True,
) -> str:
    """Return a column chart.

    Args:
        title: the line above the chart.
        peaks: the number of each column.
        ends: the labels under the first and the last column.
        height: lines of the highest column.
        margin: characters before the columns; None: as many as the greatest number needs.
        is_unicode: False draws with ASCII only.
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

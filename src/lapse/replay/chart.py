"""Numbers over time, drawn with the characters of a terminal."""

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
    """Return a picture: per column the most conversations that were open at once in its stretch of time.

    Args:
        chronicle: whose conversations.
        width: columns of the terminal.
        is_unicode: False draws with ASCII only.
    """
    span = chronicle.span()
    if span is None:
        return "no conversations"
    begin, end = span
    margin = len(str(chronicle.count_conversations())) + 2
    peaks = Peaks(begin, end, max(MIN_WIDTH, min(MAX_WIDTH, width) - margin))
    chronicle.each_change(peaks.add)
    days = begin.date().isoformat(), end.date().isoformat()
    return draw_columns("open conversations", peaks.finish(), days, margin=margin, is_unicode=is_unicode)


class Peaks:
    """The most conversations that were open at once in each of some stretches of time, of equal length."""

    def __init__(self, begin: datetime, end: datetime, columns: int) -> None:
        """Begin with none."""
        self._begin, self._end, self._columns = begin, end, columns
        self._stretch = (end - begin) / columns
        self._peaks, self._level, self._since = [0] * columns, 0, begin

    def add(self, moment: datetime, change: int) -> None:
        """Count that so many more (or less) are open from this moment on, which is not before the last one."""
        self._note_level_until(moment)
        self._level += change

    def finish(self) -> list[int]:
        """Return the peaks."""
        self._note_level_until(self._end)
        return self._peaks

    def _note_level_until(self, moment: datetime) -> None:
        for column in range(self._column(self._since), self._column(moment) + 1):
            self._peaks[column] = max(self._peaks[column], self._level)
        self._since = moment

    def _column(self, moment: datetime) -> int:
        return min(self._columns - 1, (moment - self._begin) // self._stretch) if self._stretch else 0


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


def _label(row: int, top: int, height: int) -> str:
    return str(top) if row == height else "0" if row == 1 else ""


def _cell(peak: int, top: int, row: int, height: int, is_unicode: bool) -> str:
    eighths = round(peak / top * height * 8) if top else 0
    if peak:
        eighths = max(eighths, 1)  # something is never drawn as nothing
    filled = min(8, max(0, eighths - (row - 1) * 8))
    return _EIGHTHS[filled] if is_unicode else ("#" if filled else " ")

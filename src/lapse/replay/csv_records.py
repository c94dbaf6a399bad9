"""Records of a CSV file, with the numbers of their first lines. A quote that nobody closed costs one line, not many."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator

Verdict = Callable[[list[str]], bool]
"""Tells whether the fields of a record are what the file is made of."""


class CsvRecords:
    """The records of an open file, which must have been opened with `newline=""`."""

    def __init__(self, file: Iterator[str]) -> None:
        """Begin before the first line."""
        self._file = file
        self._ahead: deque[str] = deque()
        self._number = 0

    def read(self, is_good: Verdict) -> Iterator[tuple[int, list[str] | str]]:
        """Yield the number of a record's first line with its fields, or with the reason why it has none.

        A field in quotes may hold ends of lines. Where the quote was never meant to open one, the lines behind it are
        in the field, and read again: when the quote does not close, and when the record is bad and they are good.
        """
        while True:
            lines: list[str] = []
            number = self._number + 1
            try:
                fields = next(csv.reader(self._taking(lines)))
            except StopIteration:
                return
            except csv.Error as error:
                self._put_back(lines[1:])
                yield number, f"not CSV: {error}"
                continue
            if not _is_closed(lines):
                self._put_back(lines[1:])
                yield number, "not CSV: a quote opens a field and is not closed"
                continue
            if len(lines) > 1 and not is_good(fields) and any(is_good(_fields_of(line)) for line in lines[1:]):
                self._put_back(lines[1:])
                yield number, "not CSV: a quote opens a field that goes on over good lines"
                continue
            if fields:
                yield number, fields

    def _taking(self, lines: list[str]) -> Iterator[str]:
        """Yield the lines from here on, and note them."""
        while True:
            line = self._ahead.popleft() if self._ahead else next(self._file, None)
            if line is None:
                return
            self._number += 1
            lines.append(line)
            yield line

    def _put_back(self, lines: list[str]) -> None:
        self._ahead.extendleft(reversed(lines))
        self._number -= len(lines)


def _is_closed(lines: list[str]) -> bool:
    """Tell whether every quote that opens a field is closed in these lines of one record."""
    if not any('"' in line for line in lines):
        return True
    last = lines[-1].rstrip("\r\n")
    try:
        # A line behind them is a record of its own. What goes on over several lines must be CSV to the letter.
        records = list(csv.reader([*lines[:-1], f"{last}\n", "end"], strict=len(lines) > 1))
    except csv.Error:
        return False
    return len(records) > 1


def _fields_of(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []

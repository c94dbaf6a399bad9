"""Records of a CSV file with their line numbers. An unclosed quote makes one line bad, not the rest of the file."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator


class CsvRecords:
    """The records of an open file, which must have been opened with `newline=""`."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file = file
        self._ahead: deque[str] = deque()
        self._number = 0

    def read(self, is_valid: Callable[[list[str]], bool]) -> Iterator[tuple[int, list[str] | str]]:
        """Yield the number of each record's first line, with its fields or with the reason why it cannot be read.

        A quoted field may contain line breaks. A stray quote therefore swallows the lines after it; they are read again
        if the quote is never closed, or if `is_valid` is False for the fields and True for those of one of the lines.
        """
        while True:
            lines: list[str] = []
            number = self._number + 1
            try:
                fields = next(csv.reader(self._recorded(lines)))
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
            if len(lines) > 1 and not is_valid(fields) and any(is_valid(_fields_of(line)) for line in lines[1:]):
                self._put_back(lines[1:])
                yield number, "not CSV: a quote opens a field that goes on over good lines"
                continue
            if fields:
                yield number, fields

    def _recorded(self, lines: list[str]) -> Iterator[str]:
        """Yield the lines from the current position, and append them to `lines`."""
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
    """Return whether these lines of one record close every quoted field."""
    if not any('"' in line for line in lines):
        return True
    last = lines[-1].rstrip("\r\n")
    try:
        # If all are closed, another line is a record of its own. Multi-line records must be strict CSV.
        records = list(csv.reader([*lines[:-1], f"{last}\n", "end"], strict=len(lines) > 1))
    except csv.Error:
        return False
    return len(records) > 1


def _fields_of(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []

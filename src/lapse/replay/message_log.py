"""Message logs: CSV files, read and checked whole before anything is loaded."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lapse.addresses import normalise_channel, session_key
from lapse.arguments import check_bigint
from lapse.errors import InvalidInputError, ReplayError
from lapse.lifecycle import Sender, parse_sender, require_utc

REQUIRED_COLUMNS = ("at", "owner_id", "from_number", "to_number", "channel", "sender")
OPTIONAL_COLUMNS = ("message_id",)
_FIRST_YEAR, _LAST_YEAR = 1970, 9900
"""Years whose deadlines, ten years later at most, are still in the calendar."""


@dataclass(frozen=True, slots=True)
class LoggedMessage:
    """One message of a log; `at` is UTC."""

    at: datetime
    owner_id: int
    from_number: str
    to_number: str
    channel: str
    sender: Sender


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no message, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class MessageLog:
    """The messages of a file in order of time (equal times: order of the file), and the lines that are none."""

    messages: list[LoggedMessage]
    bad_lines: list[BadLine]


def read_message_log(path: Path) -> MessageLog:
    """Read a CSV file with the columns at, owner_id, from_number, to_number, channel, sender, in any order.

    Raises:
        ReplayError: the file cannot be read, is not UTF-8 text, or lacks a column.
    """
    messages: list[LoggedMessage] = []
    bad_lines: list[BadLine] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, message in _parse(file, path.name):
                if isinstance(message, LoggedMessage):
                    messages.append(message)
                else:
                    bad_lines.append(BadLine(number, message))
    except OSError as error:
        raise ReplayError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ReplayError(f"{path.name} is not UTF-8 text") from None
    messages.sort(key=lambda message: message.at)
    return MessageLog(messages, bad_lines)


def _parse(file: Iterator[str], name: str) -> Iterator[tuple[int, LoggedMessage | str]]:
    """Yield line numbers with a message, or with the reason why there is none."""
    reader = csv.reader(file)
    columns: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield number, f"not CSV: {error}"
            continue
        if not fields:
            continue
        if columns is None:
            columns = _checked_header(fields, name)
            continue
        try:
            yield number, _message(columns, fields)
        except InvalidInputError as error:
            yield number, str(error)
    if columns is None:
        raise ReplayError(f"{name} is empty: its first line must name the columns {', '.join(REQUIRED_COLUMNS)}")


def _checked_header(fields: list[str], name: str) -> list[str]:
    columns = [field.strip() for field in fields]
    for column in REQUIRED_COLUMNS:
        if columns.count(column) != 1:
            problem = "has no column" if column not in columns else "has more than one column"
            raise ReplayError(f"{name}, line 1: {problem} {column!r}; needed: {', '.join(REQUIRED_COLUMNS)}")
    return columns


def _message(columns: list[str], fields: list[str]) -> LoggedMessage:
    if len(fields) != len(columns):
        missing = columns[len(fields) :]
        raise InvalidInputError(
            f"column {missing[0]!r} is missing" if missing else f"{len(fields)} fields for {len(columns)} columns"
        )
    values = dict(zip(columns, fields, strict=True))
    channel = normalise_channel(values["channel"])
    session_key(values["from_number"], values["to_number"], channel)  # both addresses are checked by it
    return LoggedMessage(
        at=_time(values["at"]),
        owner_id=_owner(values["owner_id"]),
        from_number=values["from_number"],
        to_number=values["to_number"],
        channel=channel,
        sender=parse_sender(values["sender"].strip()),
    )


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInputError(f"unreadable time {text[:40]!r}: use ISO 8601, as 2020-01-31T12:00:00Z") from None
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise InvalidInputError(f"the time {text[:40]!r} is not between {_FIRST_YEAR} and {_LAST_YEAR}")
    return require_utc(moment)


def _owner(text: str) -> int:
    try:
        return check_bigint("owner_id", int(text))
    except ValueError:
        raise InvalidInputError(f"owner_id {text[:40]!r} is not a whole number of at most 64 bits") from None

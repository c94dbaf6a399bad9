"""Message logs: CSV files, read and validated completely before the replay starts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from lapse.addresses import normalise_channel, session_key, shown
from lapse.checked_message import check_message_id
from lapse.errors import InvalidInputError, NaiveDatetimeError, ReplayError
from lapse.lifecycle import parse_sender, require_utc
from lapse.messages import Message
from lapse.models import AnyId
from lapse.replay.csv_records import CsvRecords
from lapse.replay.owners import Owners, stored
from lapse.store.table_mapping import IdKind

REQUIRED_COLUMNS = ("at", "owner_id", "from_number", "to_number", "channel", "sender")
MESSAGE_ID = "message_id"
"""An optional column."""
FIRST_YEAR, LAST_YEAR = 2, 9900
"""Years that are within the calendar in every time zone, as are their deadlines, up to ten years later."""
_BEGIN = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class LoggedMessage(NamedTuple):
    """A message of a log: its time in UTC, then fields of `lapse.Message`."""

    at: datetime
    owner_id: AnyId
    from_number: str
    to_number: str
    channel: str
    sender: str
    message_id: str | None = None

    def as_message(self) -> Message:
        """Return it as the service takes it."""
        return Message(*self[1:6], message_id=self.message_id, sent_at=self.at)


class BadLine(NamedTuple):
    """A line that is not a message, and the reason."""

    number: int
    reason: str


class MessageLog:
    """The messages of a file in order of time (equal times: in order of the file), and a summary of the bad lines.

    They are stored in a temporary SQLite database on disk, so memory use does not grow with their number.
    """

    def __init__(self, owner_type: IdKind | None = None) -> None:
        self.owners = Owners(owner_type)
        self.messages = 0
        self.bad_lines = 0
        self.first_bad: BadLine | None = None
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE messages (at INTEGER, place INTEGER, owner_id, from_number TEXT, to_number TEXT, "
            "channel TEXT, sender TEXT, message_id TEXT, PRIMARY KEY (at, place)) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def add(self, message: LoggedMessage) -> None:
        """Append a message; equal times stay in the order of the calls."""
        self.messages += 1
        at, owner_id, *arguments = message
        row = ((at - _BEGIN) // _MICROSECOND, self.messages, stored(owner_id), *arguments)
        self._database.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def add_bad(self, line: BadLine) -> None:
        """Count a bad line; the first one is kept."""
        self.bad_lines += 1
        self.first_bad = self.first_bad or line

    def __iter__(self) -> Iterator[LoggedMessage]:
        """Iterate over the messages in order of time."""
        rows = self._database.execute(
            "SELECT at, owner_id, from_number, to_number, channel, sender, message_id FROM messages ORDER BY at, place"
        )
        is_uuid = self.owners.kind is IdKind.UUID
        for at, owner_id, *arguments in rows:
            yield LoggedMessage(_BEGIN + at * _MICROSECOND, UUID(owner_id) if is_uuid else owner_id, *arguments)

    def close(self) -> None:
        """Delete the temporary database."""
        self._database.close()


def read_message_log(path: Path, owner_type: IdKind | None = None) -> MessageLog:
    """Read a CSV file with the columns at, owner_id, from_number, to_number, channel, sender, in any order.

    Args:
        path: of the file.
        owner_type: of the owners; None: the type of the first message's owner.

    Raises:
        ReplayError: the file cannot be read, is empty, is not UTF-8 text or lacks a column; or its messages cannot be
            stored.
    """
    with ExitStack() as on_failure:
        log = on_failure.enter_context(closing(MessageLog(owner_type)))
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for number, message in _parse(file, path.name, log.owners):
                    if isinstance(message, LoggedMessage):
                        log.add(message)
                    else:
                        log.add_bad(BadLine(number, message))
        except OSError as error:
            raise ReplayError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ReplayError(f"{path.name} is not UTF-8 text") from None
        except sqlite3.Error as error:
            raise ReplayError(f"the messages of {path.name} cannot be kept in a temporary file: {error}") from None
        on_failure.pop_all()
    return log


def _parse(file: Iterator[str], name: str, owners: Owners) -> Iterator[tuple[int, LoggedMessage | str]]:
    """Yield the number of each line, with its message or with the reason why it is bad.

    Raises:
        ReplayError: the header is missing, or lacks a column.
    """
    columns: list[str] | None = None

    def is_message(fields: list[str]) -> bool:
        with suppress(InvalidInputError):
            return columns is None or bool(_message(columns, fields, owners.check))
        return False

    for number, fields in CsvRecords(file).read(is_message):
        if columns is None:
            columns = _checked_header([] if isinstance(fields, str) else fields, name)
            continue
        try:
            yield number, fields if isinstance(fields, str) else _message(columns, fields, owners.read)
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


def _message(columns: list[str], fields: list[str], read_owner: Callable[[str], AnyId]) -> LoggedMessage:
    if len(fields) != len(columns):
        missing = columns[len(fields) :]
        raise InvalidInputError(
            f"column {shown(missing[0])} is missing" if missing else f"{len(fields)} fields for {len(columns)} columns"
        )
    values = dict(zip(columns, fields, strict=True))
    channel = normalise_channel(values["channel"])
    session_key(values["from_number"], values["to_number"], channel)  # validates both addresses
    return LoggedMessage(
        at=_time(values["at"]),
        owner_id=read_owner(values["owner_id"]),
        from_number=values["from_number"],
        to_number=values["to_number"],
        channel=channel,
        sender=parse_sender(values["sender"].strip()),
        message_id=check_message_id(values.get(MESSAGE_ID, "").strip() or None),
    )


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInputError(f"unreadable time {shown(text)}: use ISO 8601, as 2020-01-31T12:00:00Z") from None
    try:
        year = (utc := require_utc(moment)).year
    except NaiveDatetimeError:
        raise
    except InvalidInputError:  # in UTC it is outside the calendar
        year = 0
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise InvalidInputError(f"the time {shown(text)} is not between the years {FIRST_YEAR} and {LAST_YEAR} in UTC")
    return utc

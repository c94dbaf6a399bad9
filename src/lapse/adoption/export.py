"""The history goes into a file before its table goes: whole, or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from psycopg import Connection

from lapse.adoption.names import Names
from lapse.errors import InvalidInputError


def default_file() -> Path:
    """Return the name of a file in the current folder that nobody has yet."""
    return Path(f"conversation_events-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.csv")


def check_new(file: Path) -> Path:
    """Return a file that is not there yet, and can be written: known before the work, not after it.

    Raises:
        InvalidInputError: it is there, or its folder is not, or cannot be written to.
    """
    if file.exists():
        raise InvalidInputError(f"{file} is there already: name a new file")
    if not file.parent.is_dir():
        raise InvalidInputError(f"{file.parent} is no folder: name a file in one that is there")
    attempt = file.with_name(f".{file.name}.attempt")
    try:
        attempt.touch()
        attempt.unlink()
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be written: {error.strerror}; nothing was changed") from None
    return file


def write_whole(file: Path, data: bytes) -> None:
    """Write a file that is there with all its content, or not there, whenever the machine stops."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    with unfinished.open("wb") as opened:
        opened.write(data)
        _keep(opened.fileno(), unfinished, file)


@dataclass(frozen=True, slots=True)
class Digest:
    """What tells one history from another: an event is never changed, and has a key of its own."""

    events: int
    keys: Decimal


def digest_of(connection: Connection[Any], names: Names) -> Digest:
    """Return the digest of the events that there are now."""
    key = f"concat_ws(' ', owner_id, conv_id, {names.column('version')})"
    query = f"SELECT count(*), coalesce(sum(hashtextextended({key}, 0)::numeric), 0) FROM {names.events}"  # noqa: S608
    return Digest(*connection.execute(query.encode()).fetchall()[0])


def export_events(connection: Connection[Any], names: Names, file: Path) -> Digest:
    """Write all events to a CSV file with a line of names, in place of one that is there; return what is in it.

    Raises:
        OSError: the file cannot be written.
    """
    order = f"occurred_at, conv_id, {names.column('version')}"
    query = f"COPY (SELECT * FROM {names.events} ORDER BY {order}) TO STDOUT (FORMAT csv, HEADER)"  # noqa: S608
    unfinished = file.with_name(f".{file.name}.unfinished")
    with unfinished.open("wb") as opened, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found = digest_of(connection, names)
        with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
            for block in copy:
                opened.write(block)
        opened.flush()
        _keep(opened.fileno(), unfinished, file)
    return found


def _keep(descriptor: int, unfinished: Path, file: Path) -> None:
    os.fsync(descriptor)
    unfinished.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

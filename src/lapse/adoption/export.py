"""Export of the history to a file, before its table is dropped: the file is complete, or does not exist."""

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
    """Return a name for the export in the current directory, with the current time (UTC)."""
    return Path(f"conversation_events-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.csv")


def check_new(file: Path) -> Path:
    """Check that the file does not exist and can be written; return it.

    Raises:
        InvalidInputError: it exists, or its directory does not exist or cannot be written to.
    """
    if file.exists():
        raise InvalidInputError(f"{file} exists already: name a new file")
    if not file.parent.is_dir():
        raise InvalidInputError(f"{file.parent} is not a directory: name a file in an existing one")
    attempt = file.with_name(f".{file.name}.attempt")
    try:
        attempt.touch()
        attempt.unlink()
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be written: {error.strerror}; nothing was changed") from None
    return file


def write_whole(file: Path, data: bytes) -> None:
    """Write a file atomically: after a crash it has all its content, or does not exist.

    Raises:
        OSError: the file cannot be written.
    """
    unfinished = file.with_name(f".{file.name}.unfinished")
    with unfinished.open("wb") as opened:
        opened.write(data)
        _sync_and_rename(opened.fileno(), unfinished, file)


@dataclass(frozen=True, slots=True)
class Digest:
    """Identifies the content of the history: an event is never changed, and has a unique key."""

    events: int
    """The number of events."""
    keys: Decimal
    """The sum of the hashes of their keys."""


def digest_of(connection: Connection[Any], names: Names) -> Digest:
    """Return the digest of the current events.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    key = f"concat_ws(' ', owner_id, conv_id, {names.column('version')})"
    query = f"SELECT count(*), coalesce(sum(hashtextextended({key}, 0)::numeric), 0) FROM {names.events}"  # noqa: S608
    return Digest(*connection.execute(query.encode()).fetchall()[0])


def export_events(connection: Connection[Any], names: Names, file: Path) -> Digest:
    """Write all events to a CSV file with a header line, replacing an existing file; return the digest of its content.

    Raises:
        OSError: the file cannot be written.
        psycopg.Error: the database refused, or the connection is lost.
    """
    order = f"occurred_at, conv_id, {names.column('version')}"
    query = f"COPY (SELECT * FROM {names.events} ORDER BY {order}) TO STDOUT (FORMAT csv, HEADER)"  # noqa: S608
    unfinished = file.with_name(f".{file.name}.unfinished")
    with unfinished.open("wb") as opened, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        digest = digest_of(connection, names)
        with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
            for block in copy:
                opened.write(block)
        opened.flush()
        _sync_and_rename(opened.fileno(), unfinished, file)
    return digest


def _sync_and_rename(descriptor: int, unfinished: Path, file: Path) -> None:
    os.fsync(descriptor)
    unfinished.replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

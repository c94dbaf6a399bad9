"""The history goes into a file before its table goes: whole, or not at all."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg import Connection

from lapse.adoption.names import Names
from lapse.errors import InvalidInputError


def default_file() -> Path:
    """Return the name of a file in the current folder that nobody has yet."""
    return Path(f"conversation_events-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.csv")


def check_new(file: Path) -> Path:
    """Return a file that is not there yet, in a folder that is.

    Raises:
        InvalidInputError: it is there, or its folder is not.
    """
    if file.exists():
        raise InvalidInputError(f"{file} is there already: name a new file")
    if not file.parent.is_dir():
        raise InvalidInputError(f"{file.parent} is no folder: name a file in one that is there")
    return file


def write_whole(file: Path, data: bytes) -> None:
    """Write a file that is there with all its content, or not there, whenever the machine stops."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    with unfinished.open("wb") as opened:
        opened.write(data)
        _keep(opened.fileno(), unfinished, file)


def export_events(connection: Connection[Any], names: Names, file: Path) -> int:
    """Write all events to a CSV file with a line of names; return how many.

    Raises:
        OSError: the file cannot be written.
    """
    query = f"COPY (SELECT * FROM {names.events} ORDER BY occurred_at) TO STDOUT (FORMAT csv, HEADER)"  # noqa: S608
    unfinished = file.with_name(f".{file.name}.unfinished")
    with unfinished.open("wb") as opened, connection.cursor() as cursor:
        with cursor.copy(query.encode()) as copy:
            for block in copy:
                opened.write(block)
        opened.flush()
        _keep(opened.fileno(), unfinished, file)
        return cursor.rowcount


def _keep(descriptor: int, unfinished: Path, file: Path) -> None:
    os.fsync(descriptor)
    unfinished.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

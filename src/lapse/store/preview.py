"""Previews of a database: what a worker's first cycle would end now."""

from __future__ import annotations

from datetime import timedelta

from lapse.models import Preview
from lapse.store.database import Database
from lapse.store.operations import preview as operations
from lapse.store.sqlite_reading import run_read_only


def preview(database: Database, idle_timeout: timedelta, expiration: timedelta | None = None) -> Preview:
    """Count what a first cycle would end now; arguments and errors as `operations.preview`.

    On SQLite only of lapse's own tables: the file is not made, and no writer waits.

    Raises:
        DatabaseError: the database refused, or cannot be reached.
    """
    arguments = (database.safe_url, idle_timeout, expiration)
    if database.dialect == "sqlite":
        return run_read_only(database, operations.count, *arguments)
    return database.run(operations.preview, *arguments)

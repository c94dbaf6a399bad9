"""Adoption: an application's own table of conversations becomes lapse's without losing a row, and can be reverted."""

from __future__ import annotations

from lapse.errors import InvalidInputError
from lapse.store import Database


def require_postgresql(database: Database) -> None:
    """Check that the database is PostgreSQL.

    Raises:
        InvalidInputError: it is SQLite, where `lapse migrate` creates lapse's own tables.
    """
    if database.dialect != "postgresql":
        raise InvalidInputError(
            f"{database.safe_url} is SQLite, where lapse creates its own tables (`lapse migrate`): give the URL of the "
            "PostgreSQL database that holds the application's conversations"
        )

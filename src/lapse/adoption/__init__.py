"""Moving in: an application's own table of conversations becomes lapse's, without a row or a minute lost, and back."""

from __future__ import annotations

from lapse.errors import InvalidInputError
from lapse.store import Database


def require_postgresql(database: Database) -> None:
    """Let a database of PostgreSQL pass.

    Raises:
        InvalidInputError: it is SQLite, where lapse makes its own tables.
    """
    if database.dialect != "postgresql":
        raise InvalidInputError(
            f"{database.safe_url} is SQLite, where lapse makes its own tables (`lapse migrate`): give the URL of the "
            "PostgreSQL database that holds the application's conversations"
        )

"""Opening the database that a command's option or the settings name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lapse.errors import SchemaMissingError

if TYPE_CHECKING:
    from lapse.settings import Settings
    from lapse.store import Database


def open_database(database_url: str | None) -> tuple[Database, Settings]:
    """Return the database, to which nothing is connected yet, and the settings; the log goes to standard error.

    Raises:
        SettingsError: a setting, or the URL, is not usable.
    """
    from lapse.logs import configure_logging
    from lapse.settings import load_settings
    from lapse.store import Database

    settings = load_settings(database_url=database_url)
    configure_logging(settings.log_level, sys.stderr)
    return Database(settings.database_url), settings


def require_file(database: Database) -> None:
    """Let a database pass that is there already: connecting to SQLite would make an empty one.

    Raises:
        SchemaMissingError: it is a SQLite file that does not exist.
    """
    if database.path is not None and not database.path.exists():
        raise SchemaMissingError(f"there is no database {database.safe_url} yet: run `lapse migrate`")

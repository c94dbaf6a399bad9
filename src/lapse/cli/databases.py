"""Settings and database of a command, from its options and the environment."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from lapse.errors import SchemaMissingError, SettingsError

if TYPE_CHECKING:
    from lapse.settings import Settings
    from lapse.store import Database

OPTIONS = {
    "database_url": "--database-url",
    "interval_seconds": "--interval",
    "min_wait_seconds": "--min-wait",
    "batch_size": "--batch-size",
    "max_rate": "--max-rate",
    "backlog_limit": "--backlog-limit",
    "http": "--http",
    "enable_metrics": "--no-metrics",
    "idle_timeout_minutes": "--idle-minutes",
    "expiration_minutes": "--expiration-minutes",
}
"""The option of each setting; it has the same name in every command."""


def configure(log_stream: TextIO, **options: Any) -> Settings:
    """Configure logging, and return the settings; `options` are by field name, and None means not given.

    Raises:
        SettingsError: a value is not usable; the message names the option or variable it comes from.
    """
    from lapse.logs import configure_logging
    from lapse.settings import check_log_level, load_settings

    settings = load_settings(_names=OPTIONS, **options)
    check_log_level(settings)
    configure_logging(settings.log_level, log_stream)
    return settings


@contextmanager
def open_database(database_url: str | None, **options: Any) -> Iterator[tuple[Database, Settings]]:
    """Yield the database, not connected yet, and the settings; close it at the end. Logs go to standard error.

    Raises:
        SettingsError: as `configure`, or the database URL is not usable.
    """
    from lapse.store import Database

    settings = configure(sys.stderr, database_url=database_url, **options)
    with naming_url(is_option=database_url is not None):
        database = Database(settings.database_url)
    with closing(database):
        yield database, settings


@contextmanager
def naming_url(*, is_option: bool) -> Iterator[None]:
    """Add the origin of the database URL, option or variable, to a `SettingsError` that is raised inside."""
    from lapse.settings import url_variable

    try:
        yield
    except SettingsError as error:
        name = OPTIONS["database_url"] if is_option else url_variable()
        raise SettingsError(f"{name} is not usable: {error}") from None


def require_file(database: Database) -> None:
    """Raise `SchemaMissingError` unless a SQLite database exists: connecting would create an empty file."""
    if database.path is not None and not database.path.exists():
        raise SchemaMissingError(f"there is no database {database.safe_url} yet: run `lapse migrate`")

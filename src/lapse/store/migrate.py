"""Creating and upgrading the schema, once, however many processes try."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lapse.errors import ForeignTableError, SchemaVersionError
from lapse.store.database import Database
from lapse.store.layout import ADOPTION_TABLE
from lapse.store.schema import conversations, metadata
from lapse.store.schema_version import check_schema, current_version, head_version, known_versions, schema_version

if TYPE_CHECKING:
    from alembic.config import Config

LOCK_SCHEMA = sa.select(sa.func.pg_advisory_xact_lock(0x6C61707365))  # "lapse" in ASCII
"""PostgreSQL: one change of the schema at a time. Of a transaction: a session's would be lost in a pooler."""
_alembic_lock = threading.Lock()
"""Alembic keeps the running migration in its modules' globals: one at a time in a process."""


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The schema's version before (None: there was no schema) and after."""

    before: str | None
    after: str

    @property
    def changed(self) -> bool:
        """Tell whether anything was done."""
        return self.before != self.after


def migrate(database: Database) -> MigrationResult:
    """Create or upgrade the schema, in one transaction; does nothing where it is up to date.

    Raises:
        ForeignTableError: a table of lapse's name is there that lapse did not make.
        SchemaVersionError: the schema was made by a newer lapse.
        DatabaseError: the database refused, or cannot be reached.
    """

    def upgrade(connection: sa.Connection) -> MigrationResult:
        if database.dialect == "postgresql":
            connection.execute(LOCK_SCHEMA)
        before, head = current_version(connection), head_version()
        if before is None:
            _refuse_foreign_tables(connection)
        elif before not in known_versions():
            raise SchemaVersionError(
                f"the database's schema has version {before}, which a newer lapse made: upgrade lapse"
            )
        if before != head:
            _run_migrations(connection)
        return MigrationResult(before, head)

    return database.schema_transaction(upgrade)


def ensure_schema(database: Database, *, retry: bool = True) -> None:
    """Create a missing schema in an embedded database; check it everywhere.

    Raises:
        SchemaError: the database has no schema that this lapse can use.
    """
    if database.dialect == "sqlite" and schema_version(database, retry=retry) is None:
        migrate(database)
    check_schema(database, retry=retry)


def _refuse_foreign_tables(connection: sa.Connection) -> None:
    inspector = sa.inspect(connection)
    found = [name for name in (ADOPTION_TABLE, *metadata.tables) if inspector.has_table(name)]
    if ADOPTION_TABLE in found:
        raise ForeignTableError(
            "an adoption of the table conversations has begun and is not finished: `lapse adopt` goes on, "
            "`lapse unadopt` goes back"
        )
    if conversations.name in found and connection.dialect.name == "postgresql":
        raise ForeignTableError(
            "the database has a table 'conversations' that lapse did not make; it was left as it is: `lapse doctor` "
            "says whether `lapse adopt` can make it lapse's; or use another database or schema"
        )
    if found:
        raise ForeignTableError(
            f"the database has a table {found[0]!r} that lapse did not make; it was left as it is: "
            "use another database or schema"
        )


def _run_migrations(connection: sa.Connection) -> None:
    # Imported here: most processes never migrate anything.
    from alembic import command

    with _alembic_lock:  # taken after the database's lock, always in that order
        command.upgrade(alembic_config(connection=connection), "head")


def alembic_config(**attributes: Any) -> Config:
    """Return Alembic's configuration, with these attributes for `migrations/env.py`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "lapse.store:migrations")
    config.attributes.update(attributes)
    return config

"""Creating and upgrading the schema, once, however many processes try."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from lapse.errors import ForeignTableError, SchemaMissingError, SchemaVersionError
from lapse.store.database import Database
from lapse.store.schema import metadata

VERSION_TABLE = "lapse_schema_version"
"""Alembic's table under a name of lapse's own: the application's Alembic may live in the same database."""
# Not Alembic's: that one makes a table anew for each look, and SQLAlchemy keeps what it compiles for it.
_VERSION: sa.Select[str] = sa.select(sa.column("version_num", sa.Text)).select_from(sa.table(VERSION_TABLE))
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


# Cached: Alembic registers something at exit for each look at the scripts, and a readiness probe looks every time.
@cache
def head_version() -> str:
    """Return the schema version that this lapse needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise AssertionError("the package holds no migrations")
    return head


@cache
def _known_versions() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def schema_version(database: Database, *, retry: bool = True) -> str | None:
    """Return the version of the database's schema, or None where there is none."""
    return database.inspect(_current_version, retry=retry)


def check_schema(database: Database, *, retry: bool = True) -> None:
    """Let a database with the right schema pass.

    Raises:
        SchemaMissingError: it has none.
        SchemaVersionError: it has another version's.
    """
    found, needed = schema_version(database, retry=retry), head_version()
    if found is None:
        raise SchemaMissingError
    if found != needed:
        advice = "run `lapse migrate`" if found in _known_versions() else "a newer lapse made it: upgrade lapse"
        raise SchemaVersionError(f"the database's schema has version {found}, this lapse needs {needed}: {advice}")


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
        before, head = _current_version(connection), head_version()
        if before is None:
            _refuse_foreign_tables(connection)
        elif before not in _known_versions():
            raise SchemaVersionError(
                f"the database's schema has version {before}, which a newer lapse made: upgrade lapse"
            )
        if before != head:
            with _alembic_lock:  # taken after the database's lock, always in that order
                command.upgrade(_config(connection=connection), "head")
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


def _current_version(connection: sa.Connection) -> str | None:
    # Asking for a table that is not there would spoil the transaction on PostgreSQL.
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(_VERSION).scalar_one_or_none()


def _refuse_foreign_tables(connection: sa.Connection) -> None:
    inspector = sa.inspect(connection)
    found = [name for name in metadata.tables if inspector.has_table(name)]
    if found:
        raise ForeignTableError(
            f"the database has a table {found[0]!r} that lapse did not make; it was left as it is: "
            "use another database or schema"
        )


def _config(**attributes: Any) -> Config:
    config = Config()
    config.set_main_option("script_location", "lapse.store:migrations")
    config.attributes.update(attributes)
    return config

"""Creating and upgrading the schema; any number of processes may try at once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lapse.errors import DatabaseUnavailableError, ForeignTableError, SchemaError, SchemaVersionError
from lapse.store.database import Database
from lapse.store.drivers.sqlite import WRITE_AHEAD
from lapse.store.operations import schema as operations
from lapse.store.operations.schema import head_version, known_versions
from lapse.store.statements import schema as statements
from lapse.store.table_locks import holders_query
from lapse.store.table_mapping import ADOPTION_TABLE, VERSION_TABLE
from lapse.store.tables import OWN_TABLES

if TYPE_CHECKING:
    from alembic.config import Config

_alembic_lock = threading.Lock()
"""Alembic keeps the running migration in its modules' globals: one at a time in a process."""
LOCK_WAIT_SECONDS = 30.0
"""For how long a migration tries to lock the tables; each try is short, since messages wait behind it."""
_PAUSE_SECONDS = 0.5
_LOCK_NOT_AVAILABLE = "55P03"


class _LockedError(Exception):
    """Somebody else holds a lock that a migration needs."""


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The schema's version before (None: there was no schema) and after."""

    before: str | None
    after: str
    shut_out: tuple[str, ...] = ()
    """PostgreSQL: roles, as SQL spells them, that had rights by default privileges and have none now."""

    @property
    def changed(self) -> bool:
        """Tell whether anything was done."""
        return self.before != self.after


def migrate(database: Database) -> MigrationResult:
    """Create or upgrade the schema, in one transaction; does nothing where it is up to date.

    On PostgreSQL the tables are open to their owner and to roles that somebody named, and to nobody else: a role that
    has a GRANT goes on, what default privileges gave is taken away.

    Raises:
        DatabaseUnavailableError: somebody held a lock on the tables all the time.
        ForeignTableError: a table of lapse's name is there that lapse did not make.
        SchemaVersionError: the schema was made by a newer lapse.
        DatabaseError: the database refused, or cannot be reached.
    """

    def upgrade(connection: sa.Connection) -> MigrationResult:
        if database.dialect == "postgresql":
            connection.execute(statements.lock(OWN_TABLES))
        before, head = _current_version(connection), head_version()
        if before is None:
            _refuse_foreign_tables(connection)
        elif before not in known_versions():
            raise SchemaVersionError(
                f"the database's schema has version {before}, which a newer lapse made: upgrade lapse"
            )
        shut_out = _run_migrations(connection, is_new=before is None) if before != head else []
        return MigrationResult(before, head, tuple(shut_out))

    give_up_at = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            result = database.schema_transaction(upgrade)
        except _LockedError:
            if time.monotonic() > give_up_at:
                raise DatabaseUnavailableError(_locked(database)) from None
        else:
            if database.dialect == "sqlite":  # outside a transaction, and only now: no file of another program's
                database.inspect(lambda connection: connection.exec_driver_sql(WRITE_AHEAD).close())
            return result
        time.sleep(_PAUSE_SECONDS)


def ensure_schema(database: Database, *, retry: bool = True) -> None:
    """Create a missing schema in an embedded database; check it everywhere.

    Raises:
        SchemaError: the database has no schema that this lapse can use.
    """
    if database.dialect == "sqlite" and schema_version(database, retry=retry) is None:
        migrate(database)
    check_schema(database, retry=retry)


def check_schema(database: Database, *, retry: bool = True) -> None:
    """Check that a database has the right schema.

    Raises:
        SchemaMissingError: it has none.
        SchemaVersionError: it has another version's.
        DatabaseError: it refused, or cannot be reached.
    """
    try:
        database.run(operations.check, database.safe_url, reads_only=True, retry=retry)
    except SchemaError:
        database.invalidate()
        raise


def schema_version(database: Database, *, retry: bool = True) -> str | None:
    """Return the version of the database's schema, or None where there is none.

    Raises:
        DatabaseError: the database refused, or cannot be reached.
    """
    return database.run(operations.read_version, reads_only=True, retry=retry)


def _current_version(connection: sa.Connection) -> str | None:
    # Asking for a table that is not there would spoil the transaction on PostgreSQL.
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(statements.version(OWN_TABLES)).scalar_one_or_none()


def _refuse_foreign_tables(connection: sa.Connection) -> None:
    inspector = sa.inspect(connection)
    found = [name for name in (ADOPTION_TABLE, *OWN_TABLES.metadata.tables) if inspector.has_table(name)]
    if ADOPTION_TABLE in found:
        raise ForeignTableError(
            "an adoption of the table conversations has begun and is not finished: `lapse adopt` goes on, "
            "`lapse unadopt` goes back"
        )
    if OWN_TABLES.conversations.name in found and connection.dialect.name == "postgresql":
        raise ForeignTableError(
            "the database has a table 'conversations' that lapse did not make; it was left as it is: `lapse doctor` "
            "says whether `lapse adopt` can make it lapse's; or use another database or schema"
        )
    if found:
        raise ForeignTableError(
            f"the database has a table {found[0]!r} that lapse did not make; it was left as it is: "
            "use another database or schema"
        )


def _run_migrations(connection: sa.Connection, *, is_new: bool) -> list[str]:
    """Migrate; return the roles that have no right any more."""
    # Imported here: most processes never migrate anything.
    from alembic import command

    config = alembic_config(connection=connection, is_new=is_new)
    with _alembic_lock:  # taken after the database's lock, always in that order
        try:
            command.upgrade(config, "head")
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                raise _LockedError from None
            raise
    shut_out: list[str] = config.attributes.get("shut_out", [])
    return shut_out


def _locked(database: Database) -> str:
    query = sa.text(holders_query(*OWN_TABLES.metadata.tables, VERSION_TABLE))
    holders = database.inspect(lambda connection: [f"pid {pid} ({name})" for pid, name in connection.execute(query)])
    return (
        f"the tables stayed locked for {LOCK_WAIT_SECONDS:.0f} seconds, by {', '.join(holders) or 'somebody'}: "
        "nothing was changed; end those transactions and run it again"
    )


def alembic_config(**attributes: Any) -> Config:
    """Return Alembic's configuration, with these attributes for `migrations/env.py`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "lapse.store:migrations")
    config.attributes.update(attributes)
    return config

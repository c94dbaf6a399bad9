"""Creating and upgrading the schema; any number of processes may try at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lapse.addresses import shown
from lapse.errors import (
    DatabaseUnavailableError,
    ForeignTableError,
    InvalidInputError,
    SchemaError,
    SchemaMissingError,
    SchemaVersionError,
)
from lapse.store import table_locks
from lapse.store.database import Database
from lapse.store.drivers.sqlite import WRITE_AHEAD
from lapse.store.migration_progress import MigrationProgress, Silence
from lapse.store.operations import schema as operations
from lapse.store.operations.schema import head_version, known_versions
from lapse.store.statements import schema as statements
from lapse.store.table_mapping import (
    ADOPTION_TABLE,
    DEFAULT,
    FILE_QUERY,
    MAPPING_QUERY,
    VERSION_TABLE,
    IdKind,
    mapping_of,
    mapping_of_file,
)
from lapse.store.tables import OWN_TABLES

if TYPE_CHECKING:
    from alembic.config import Config

    from lapse.store.online_steps import OnlineSteps

_alembic_lock = threading.Lock()
"""Alembic keeps the running migration in its modules' globals: one at a time in a process."""
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


def migrate(
    database: Database, *, owner_type: str | None = None, progress: MigrationProgress | None = None
) -> MigrationResult:
    """Create or upgrade the schema; does nothing where it is up to date.

    It is one transaction. On PostgreSQL what takes long is prepared before it, beside messages; a run that was
    interrupted there is gone on with by the next one, and the schema has its old version until the end. The tables are
    open to their owner and to roles that somebody named, and to nobody else: a role that has a GRANT goes on, what
    default privileges gave is taken away.

    Args:
        database: to migrate.
        owner_type: of `owner_id` in a new schema: `bigint` (the default), `uuid` or `text`.
        progress: receives the steps of what is prepared; default: nobody wants to know.

    Raises:
        DatabaseUnavailableError: somebody held a lock on the tables all the time.
        ForeignTableError: a table of lapse's name is there that lapse did not make.
        SchemaVersionError: the schema was made by a newer lapse.
        SchemaError: the schema has owners of another type, or something of the application's depends on what changes.
        InvalidInputError: there is no such type of owners.
        DatabaseError: the database refused, or cannot be reached.
    """
    wanted = None if owner_type is None else parse_owner_type(owner_type)
    if wanted is not None and schema_version(database) in known_versions():
        _check_owner_type(database.shape().mapping.kinds["owner_id"], wanted)  # before anything is prepared

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
        shut_out = _run_migrations(connection, before is None, wanted) if before != head else []
        if wanted is not None:
            _check_owner_type(_owner_kind(connection), wanted)
        return MigrationResult(before, head, tuple(shut_out))

    def finish() -> MigrationResult:
        return _with_lock_retries(database, upgrade)

    if database.dialect == "postgresql" and _is_behind(database):
        result = _prepare(database, finish, progress or Silence())
    else:
        result = finish()
    if database.dialect == "sqlite":  # outside a transaction, and only now: no file of another program's
        database.inspect(lambda connection: connection.exec_driver_sql(WRITE_AHEAD).close())
    database.invalidate()
    return result


def _with_lock_retries(database: Database, upgrade: Callable[[sa.Connection], MigrationResult]) -> MigrationResult:
    give_up_at = time.monotonic() + table_locks.LOCK_WAIT_SECONDS
    while True:
        try:
            return database.schema_transaction(upgrade)
        except _LockedError:
            if time.monotonic() > give_up_at:
                raise DatabaseUnavailableError(table_locks.locked(_holders(database))) from None
        time.sleep(table_locks.PAUSE_SECONDS)


def _is_behind(database: Database) -> bool:
    return schema_version(database) in known_versions()[:-1]


def _prepare(database: Database, finish: Callable[[], MigrationResult], progress: MigrationProgress) -> MigrationResult:
    """Do what the missing migrations do online, then `finish`, and return its result.

    Both while no other process does: one that prepares beside the other's last transaction would find half of it.
    """
    from lapse.store import online_steps  # needs psycopg, which SQLite does without

    results: list[MigrationResult] = []

    def work(steps: OnlineSteps) -> None:
        if _is_behind(database):  # and not done by the process that was waited for
            for prepare in _online_steps(schema_version(database)):
                prepare(steps)
        results.append(finish())

    online_steps.run_online(database, work, progress)
    return results[-1]


def _online_steps(version: str | None) -> list[Callable[[OnlineSteps], None]]:
    """Return what the migrations after this version do online, the oldest one's first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config())
    with _alembic_lock:
        missing = [script.module for script in scripts.iterate_revisions("head", version or "base")]
    return [module.prepare for module in reversed(missing) if hasattr(module, "prepare")]


def ensure_schema(database: Database, *, retry: bool = True) -> None:
    """Create a missing schema in an embedded database; check it everywhere.

    Raises:
        SchemaError: the database has no schema that this lapse can use.
    """
    if database.dialect == "sqlite" and schema_version(database, retry=retry) is None:
        migrate(database)
    check_schema(database, retry=retry)


def has_schema(database: Database, *, retry: bool = True) -> bool:
    """Check that a database has the right schema; False: an embedded one that has none yet, and is not made by a look.

    Raises:
        SchemaError, DatabaseError: as `check_schema`; elsewhere a missing schema is an error, too.
    """
    if database.path is not None and not database.path.exists():
        return False
    try:
        check_schema(database, retry=retry)
    except SchemaMissingError:
        if database.path is None:
            raise
        return False
    return True


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


def parse_owner_type(owner_type: str) -> IdKind:
    """Return the type of owners of this name; any other value raises `InvalidInputError`."""
    try:
        return IdKind(owner_type)
    except ValueError:
        raise InvalidInputError(f"owner type {shown(owner_type)}: use {', '.join(IdKind)}") from None


def _check_owner_type(found: IdKind, wanted: IdKind) -> None:
    if found is not wanted:
        raise SchemaError(
            f"the schema is there already, and its owner_id is {found}, not {wanted}; nothing was changed: "
            "the type of owners is chosen when a database is new"
        )


def _owner_kind(connection: sa.Connection) -> IdKind:
    is_sqlite = connection.dialect.name == "sqlite"
    rows = connection.exec_driver_sql(FILE_QUERY if is_sqlite else MAPPING_QUERY).all()
    mapping = mapping_of_file(rows) if is_sqlite else mapping_of(rows)
    return (mapping or DEFAULT).kinds["owner_id"]


def _run_migrations(connection: sa.Connection, is_new: bool, owner_type: IdKind | None) -> list[str]:
    """Migrate; return the roles that have no right any more."""
    # Imported here: most processes never migrate anything.
    from alembic import command

    config = alembic_config(connection=connection, is_new=is_new, owner_type=owner_type)
    with _alembic_lock:  # taken after the database's lock, always in that order
        try:
            command.upgrade(config, "head")
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                raise _LockedError from None
            raise
    shut_out: list[str] = config.attributes.get("shut_out", [])
    return shut_out


def _holders(database: Database) -> list[str]:
    query = sa.text(table_locks.holders_query(*OWN_TABLES.metadata.tables, VERSION_TABLE))
    return database.inspect(lambda connection: [f"pid {pid} ({name})" for pid, name in connection.execute(query)])


def alembic_config(**attributes: Any) -> Config:
    """Return Alembic's configuration, with these attributes for `migrations/env.py`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "lapse.store:migrations")
    config.attributes.update(attributes)
    return config

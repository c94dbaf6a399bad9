"""The version of the schema: which one lapse needs, which one a database has, and whether they fit."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import sqlalchemy as sa

from lapse.errors import SchemaMissingError, SchemaVersionError
from lapse.store.database import Database
from lapse.store.layout import VERSION_TABLE

# Not Alembic's: that one makes a table anew for each look, and SQLAlchemy keeps what it compiles for it.
_VERSION: sa.Select[str] = sa.select(sa.column("version_num", sa.Text)).select_from(sa.table(VERSION_TABLE))


@cache
def known_versions() -> tuple[str, ...]:
    """Return the versions that this lapse knows, the first one first: `0001` is the file `v0001_….py`.

    Not asked of Alembic: a worker that has nothing to migrate is 7 MB smaller without it.
    """
    names = (path.name for path in files("lapse.store.migrations.versions").iterdir())
    return tuple(sorted(name[1:].partition("_")[0] for name in names if name.startswith("v") and name.endswith(".py")))


def head_version() -> str:
    """Return the schema version that this lapse needs."""
    return known_versions()[-1]


def schema_version(database: Database, *, retry: bool = True) -> str | None:
    """Return the version of the database's schema, or None where there is none."""
    try:
        rows = database.autocommit(lambda connection: connection.execute(_VERSION), reads_only=True, retry=retry)
    except SchemaMissingError:
        return None
    row = rows.one_or_none()
    return None if row is None else str(row.version_num)


def current_version(connection: sa.Connection) -> str | None:
    """Return the version of the schema, inside a transaction."""
    # Asking for a table that is not there would spoil the transaction on PostgreSQL.
    return connection.execute(_VERSION).scalar_one_or_none() if _has_version_table(connection) else None


def check_schema(database: Database, *, retry: bool = True) -> None:
    """Let a database with the right schema pass.

    Raises:
        SchemaMissingError: it has none.
        SchemaVersionError: it has another version's.
    """
    found, needed = schema_version(database, retry=retry), head_version()
    if found != needed:
        database.forget_layout()
    if found is None and database.inspect(_has_version_table, retry=retry):
        # It is made together with its row: who sees none is kept from it.
        raise SchemaMissingError(
            f"{database.safe_url} shows this role no row of {VERSION_TABLE}, for row level security, say: "
            "run `lapse doctor`"
        )
    if found is None and database.layout().is_adopted:
        raise SchemaMissingError(
            f"{database.safe_url} has a table conversations that an application made and lapse has not adopted: "
            "run `lapse doctor`, then `lapse adopt`"
        )
    if found is None:
        raise SchemaMissingError
    if found != needed:
        advice = "run `lapse migrate`" if found in known_versions() else "a newer lapse made it: upgrade lapse"
        raise SchemaVersionError(f"the database's schema has version {found}, this lapse needs {needed}: {advice}")


def _has_version_table(connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table(VERSION_TABLE)

"""The shape of a database, for which its statements are built, and the version of its schema."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.resources import files

from lapse.errors import SchemaMissingError, SchemaVersionError
from lapse.store.operations.steps import Query, Steps
from lapse.store.statements import Statements, citus, schema
from lapse.store.table_mapping import VERSION_TABLE, Shape, mapping_of, mapping_of_file


def read_shape(sql: Statements) -> Steps[Shape | None]:
    """Return the shape of a database, or None where there is no table `conversations` yet."""
    if sql.shape.dialect == "sqlite":
        of_file = mapping_of_file((yield Query(sql(schema.mapping_of_file))))
        return None if of_file is None else replace(sql.shape, mapping=of_file)
    rows = yield Query(sql(schema.mapping))
    mapping = mapping_of(rows)
    if mapping is None:
        return None
    is_distributed = False
    if rows[0].has_citus:
        distribution = yield Query(sql(citus.distribution), {"table": sql.tables.conversations.name})
        is_distributed = any(row.is_by_hash for row in distribution)
    return replace(sql.shape, mapping=mapping, is_distributed=is_distributed)


# --- the version ------------------------------------------------------------------------------------------------------


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


def read_version(sql: Statements) -> Steps[str | None]:
    """Return the version of the database's schema, or None where there is none."""
    try:
        row = (yield Query(sql(schema.version))).one_or_none()
    except SchemaMissingError:
        return None
    return None if row is None else str(row.version_num)


def check(sql: Statements, database: str) -> Steps[None]:
    """Check that the database has the right schema; errors call it by the name `database`.

    Raises:
        SchemaMissingError: it has none.
        SchemaVersionError: it has another version's.
    """
    version, needed = (yield from read_version(sql)), head_version()
    if version == needed:
        return
    if version is not None:
        advice = "run `lapse migrate`" if version in known_versions() else "a newer lapse made it: upgrade lapse"
        raise SchemaVersionError(f"the database's schema has version {version}, this lapse needs {needed}: {advice}")
    if (yield Query(sql(schema.has_version_table))).one().is_there:
        # It is made together with its row: who sees none is kept from it.
        raise SchemaMissingError(
            f"{database} shows this role no row of {VERSION_TABLE}, for row level security, say: run `lapse doctor`"
        )
    if sql.shape.mapping.is_adopted:
        raise SchemaMissingError(
            f"{database} has a table conversations that an application made and lapse has not adopted: "
            "run `lapse doctor`, then `lapse adopt`"
        )
    raise SchemaMissingError

"""Whether a worker could work in this database now; checked without a write, a lock or a wait."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lapse.errors import DatabaseError, DatabaseUnavailableError, SchemaMissingError
from lapse.store.database import Database
from lapse.store.migrate import check_schema
from lapse.store.operations import Query, Steps
from lapse.store.statements import Statements
from lapse.store.tables import OWN_TABLES, Tables


class _ReadOnlyError(DatabaseUnavailableError):
    """The session cannot write."""


class _Need(NamedTuple):
    """A right that a worker needs, for columns of a table."""

    name: str
    right: str
    table: sa.Table
    columns: tuple[str, ...]
    policy: str
    """PostgreSQL's letter for policies of such statements."""


_WRITTEN = ("status", "version", "ended_at", "idle_check_at", "idle_timeout_seconds")
# With the place of a row, by which a sweep finds again what it has locked; no right to a column includes that one.
_READ = ("ctid", "owner_id", "conv_id", "started_at", "updated_at", "expires_at", *_WRITTEN)
_CONVERSATIONS, _EVENTS, _RECEIPTS = OWN_TABLES.conversations, OWN_TABLES.events, OWN_TABLES.receipts
_TABLES = (_CONVERSATIONS, _EVENTS, _RECEIPTS)
_OF_EVENTS = tuple(_EVENTS.columns.keys())
# No more: an adopted table may be granted by the column.
_NEEDS = (
    _Need("reads", "SELECT", _CONVERSATIONS, _READ, "r"),
    _Need("ends", "UPDATE", _CONVERSATIONS, _WRITTEN, "w"),
    _Need("reads_events", "SELECT", _EVENTS, _OF_EVENTS, "r"),
    _Need("records", "INSERT", _EVENTS, _OF_EVENTS, "a"),
    _Need("reads_receipts", "SELECT", _RECEIPTS, ("ctid", *_RECEIPTS.columns.keys()), "r"),
    _Need("forgets", "DELETE", _RECEIPTS, (), "d"),
)

_attribute = sa.table("pg_attribute", *(sa.column(name) for name in ("attrelid", "attnum", "attname")))
_policy = sa.table("pg_policy", *(sa.column(name) for name in ("polrelid", "polpermissive", "polcmd", "polroles")))
_SETTING: sa.ColumnElement[str] = sa.func.current_setting("transaction_read_only")


def _oid(table: sa.Table) -> sa.ColumnElement[Any]:
    return sa.func.to_regclass(sa.literal(table.name, sa.Text))


def _has(need: _Need) -> sa.ColumnElement[bool]:
    """The role has the right; and where there is row level security, a policy that lets it through to some row."""
    columns = sa.bindparam(need.name, type_=postgresql.ARRAY(sa.Text))
    a, p = _attribute.c, _policy.c
    without = sa.exists().where(
        a.attrelid == _oid(need.table),
        a.attname == sa.any_(columns),
        ~sa.func.has_column_privilege(a.attrelid, a.attnum, need.right, type_=sa.Boolean),
    )
    of_role = sa.func.unnest(p.polroles).column_valued("of_role")
    policy = sa.exists().where(
        p.polrelid == _oid(need.table),
        p.polpermissive,
        p.polcmd.in_([sa.literal_column(f"'{command}'") for command in (need.policy, "*")]),
        sa.exists().where(
            sa.or_(of_role == 0, sa.func.pg_has_role(of_role, sa.literal_column("'USAGE'"), type_=sa.Boolean))
        ),
    )
    # Rows are deleted whole: that right is to no column.
    deletes: sa.ColumnElement[bool] = sa.func.has_table_privilege(_oid(need.table), "DELETE", type_=sa.Boolean)
    has_right = ~without if need.columns else deletes
    is_filtered = sa.func.row_security_active(_oid(need.table), type_=sa.Boolean)
    return sa.and_(has_right, sa.or_(~is_filtered, policy))


def _session(_tables: Tables) -> Any:
    """Look at the catalog, which every role may do, and which no lock of anybody's holds up."""
    return sa.select(
        sa.literal_column("current_user").label("role"),
        (_SETTING == "on").label("reads_only"),
        sa.func.pg_is_in_recovery(type_=sa.Boolean).label("is_standby"),
        *(_oid(table).is_not(None).label(f"has_{table.name}") for table in _TABLES),
        *(_has(need).label(need.name) for need in _NEEDS),
    )


def check_ready(database: Database) -> None:
    """Check that a worker could do its work in a database: the right schema, and no reason that it cannot write.

    It is asked once, without another try.

    Raises:
        SchemaError: it has no schema, or another one.
        DatabaseUnavailableError: it cannot be reached, or only reads. A session that only reads is given up: the next
            one may come to a server that writes.
        DatabaseError: the worker may not write there.
    """
    if database.path is not None:
        _check_file(database.path)
    check_schema(database, retry=False)
    if database.dialect == "postgresql":
        try:
            database.run(_check_session, retry=False)
        except _ReadOnlyError:
            database.close()
            raise


def _check_file(path: Path) -> None:
    # Of SQLite one could only ask by taking the write lock.
    if not path.exists():
        raise SchemaMissingError
    beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]
    if not all(os.access(file, os.W_OK) for file in (path, *beside) if file.exists()):
        raise DatabaseError("the SQLite file cannot be written: look at its owner, its mode and its file system")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise DatabaseError("the folder of the SQLite file cannot be written: SQLite keeps files beside it")


def _check_session(sql: Statements) -> Steps[None]:
    names = sql.shape.mapping.renamed
    columns = {need.name: [names.get(column, column) for column in need.columns] for need in _NEEDS}
    session = (yield Query(sql(_session), columns)).one()
    if session.reads_only:
        kind = "this server is a standby, which only reads" if session.is_standby else "this session only reads"
        raise _ReadOnlyError(f"the database is not available: {kind}")
    for table in _TABLES:
        if not getattr(session, f"has_{table.name}"):
            raise SchemaMissingError(f"the database has no table {table.name}: run `lapse doctor`")
    missing = [f"{need.right} {need.table.name}" for need in _NEEDS if not getattr(session, need.name)]
    if missing:
        raise DatabaseError(f"role {session.role} may not {', '.join(missing)}: run `lapse doctor`")

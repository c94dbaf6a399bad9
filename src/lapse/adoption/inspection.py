"""Inspection of a database: what its table of conversations is to lapse, and everything the checks need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg

from lapse.adoption.bounded_queries import fetch_rows, in_savepoint
from lapse.adoption.catalog import Table, read_table
from lapse.adoption.names import Names
from lapse.adoption.required_columns import obstacles
from lapse.store.connection import Connection
from lapse.store.operations.schema import head_version, known_versions
from lapse.store.statements import citus
from lapse.store.table_mapping import ADOPTION_TABLE, LAPSE_COLUMNS, PREFIX, VERSION_TABLE
from lapse.store.tables import OWN_TABLES

SETTINGS = (
    "client_encoding",
    "default_transaction_isolation",
    "lock_timeout",
    "row_security",
    "session_replication_role",
    "statement_timeout",
    "transaction_timeout",
)


class Kind(StrEnum):
    """What the table of conversations is to lapse."""

    OWN = "own"
    ADOPTABLE = "adoptable"
    ADOPTING = "adopting"
    """Its adoption, or the revert of it, is incomplete."""
    ADOPTED = "adopted"
    EMPTY = "empty"
    """There is no such table."""
    HIDDEN = "hidden"
    """The role lacks the privilege to see it."""
    OTHER = "other"
    """It does not fulfil the requirements of adoption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server, and the current session."""

    version: str
    version_number: int
    """As `server_version_num`: 150006 is 15.6."""
    role: str
    login: str
    """The role that logged in: the session started with its settings."""
    database: str
    encoding: str
    """As `SHOW server_encoding`."""
    settings: Mapping[str, str]
    """Those of `SETTINGS` that this server knows, with the values with which the session started."""
    options: str
    """The options of the connection: `-c row_security=off`."""
    is_standby: bool
    is_read_only: bool
    is_pooled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The input of every check; a table is None where it does not exist."""

    kind: Kind
    server: Server
    table: Table | None
    events: Table | None
    receipts: Table | None
    version_table: Table | None
    schema_version: str | None
    """None where there is none, or this role cannot read it."""
    hidden_in: Sequence[str]
    """Schemas with a table of that name on which this role lacks USAGE."""
    visible_in: Sequence[str]
    """Schemas with a table of that name that are not on the search path."""
    is_distributed: bool
    """By Citus."""

    @property
    def column_names(self) -> Mapping[str, str]:
        """Return lapse's columns, and their names in this table."""
        columns = self.table.columns if self.table else {}
        return {name: PREFIX + name if PREFIX + name in columns else name for name in LAPSE_COLUMNS}

    @property
    def names(self) -> Names:
        """Return the names of lapse's objects in this database."""
        return Names(schema=self.table.schema if self.table else "public", columns=self.column_names)

    @property
    def tables_beside(self) -> list[Table]:
        """Return those of lapse's own tables that exist beside the conversations, where lapse uses the database."""
        if self.kind not in (Kind.OWN, Kind.ADOPTED, Kind.ADOPTING):
            return []
        receipts = None if self.is_behind else self.receipts
        return [table for table in (self.events, receipts, self.version_table) if table]

    @property
    def is_current(self) -> bool:
        """Tell whether lapse created or adopted the table, with the schema version of this lapse."""
        return self.kind in (Kind.OWN, Kind.ADOPTED) and self.schema_version in (None, head_version())

    @property
    def is_behind(self) -> bool:
        """Tell whether the schema is older than this lapse: `lapse migrate` upgrades it."""
        return self.schema_version in known_versions()[:-1]

    @property
    def is_ahead(self) -> bool:
        """Tell whether the schema is newer than this lapse."""
        return self.schema_version is not None and self.schema_version not in known_versions()

    @property
    def traits(self) -> list[str]:
        """Return the special properties of the database, as `lapse doctor` prints them."""
        traits = {
            "distributed": self.is_distributed,
            "partitioned": self.table is not None and self.table.kind == "p",
            "pooled": self.server.is_pooled,
            "standby": self.server.is_standby,
            "read-only": self.server.is_read_only,
            "behind": self.is_behind,
            "ahead": self.is_ahead,
        }
        return [name for name, is_so in traits.items() if is_so]


def inspect_database(connection: Connection) -> Inspection:
    """Read the catalog, inside a read-only transaction.

    Raises:
        psycopg.Error: the catalog cannot be read, or the connection is lost.
    """
    driver = connection.driver
    table, adoption = read_table(driver, OWN_TABLES.conversations.name), read_table(driver, ADOPTION_TABLE)
    version_table = read_table(driver, VERSION_TABLE)
    others = [] if table else fetch_rows(driver, _ELSEWHERE, {"name": OWN_TABLES.conversations.name})
    hidden = [other["schema"] for other in others if not other["is_visible"]]
    is_complete = bool(version_table) and (adoption is None or _value(driver, _IS_COMPLETE) is not False)
    return Inspection(
        kind=_kind(table, adoption=adoption, is_complete=is_complete, is_hidden=bool(hidden)),
        server=_read_server(driver),
        table=table,
        events=read_table(driver, OWN_TABLES.events.name),
        receipts=read_table(driver, OWN_TABLES.receipts.name),
        version_table=version_table,
        schema_version=_value(driver, _VERSION) if version_table else None,
        hidden_in=hidden,
        visible_in=[other["schema"] for other in others if other["is_visible"]],
        is_distributed=in_savepoint(driver, lambda: _is_distributed(connection)) is True,
    )


_VERSION = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608 - of constants
_IS_COMPLETE = f"SELECT completed_at IS NOT NULL FROM {ADOPTION_TABLE}"  # noqa: S608 - as well
_SERVER = """
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_number,
        current_user::text AS role, session_user::text AS login, current_database()::text AS database,
        current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS is_standby,
        pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool AS is_read_only,
        pg_backend_pid() AS pid"""
_SETTINGS = "SELECT name, reset_val FROM pg_settings WHERE name = ANY (%(names)s::text[])"
_ELSEWHERE = """
    SELECT n.nspname AS schema, has_schema_privilege(n.oid, 'USAGE') AS is_visible
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT starts_with(n.nspname, 'pg_')
        AND n.nspname <> 'information_schema' ORDER BY n.nspname"""


def _read_server(driver: psycopg.Connection[Any]) -> Server:
    (server,) = fetch_rows(driver, _SERVER)
    # Not the current values: `apply_session_settings` has changed some.
    settings = {row["name"]: row["reset_val"] for row in fetch_rows(driver, _SETTINGS, {"names": list(SETTINGS)})}
    # A pooler reports a process ID of its own.
    is_pooled = server.pop("pid") != driver.info.backend_pid
    return Server(is_pooled=is_pooled, settings=settings, options=driver.info.options, **server)


def _value(driver: psycopg.Connection[Any], query: str) -> Any:
    """Return the only value of the only row, or None where there is none or the database refused."""
    row = in_savepoint(driver, lambda: driver.execute(query.encode()).fetchone())
    return None if row is None or isinstance(row, psycopg.Error) else row[0]


def _kind(table: Table | None, *, adoption: Table | None, is_complete: bool, is_hidden: bool) -> Kind:
    if adoption and table:
        return Kind.ADOPTED if is_complete else Kind.ADOPTING
    if is_complete:
        return Kind.OWN
    if table is None:
        return Kind.HIDDEN if is_hidden else Kind.EMPTY
    return Kind.OTHER if obstacles(table) else Kind.ADOPTABLE


def _is_distributed(connection: Connection) -> bool:
    if not connection.execute(citus.is_installed(OWN_TABLES)).one().is_installed:
        return False
    rows = connection.execute(citus.distribution(OWN_TABLES), {"table": OWN_TABLES.conversations.name})
    return any(row.is_by_hash for row in rows)

"""Which database it is: lapse's own, an application's that may be adopted or was, an empty one, or another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg

from lapse.adoption.catalog import Table, read_table
from lapse.adoption.looks import look, rows
from lapse.adoption.names import Names
from lapse.adoption.required_columns import obstacles
from lapse.store import citus
from lapse.store.connection import Connection
from lapse.store.layout import ADOPTION_TABLE, LAPSE_COLUMNS, PREFIX, VERSION_TABLE
from lapse.store.schema import conversation_events, conversations
from lapse.store.schema_version import head_version, known_versions

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
    ADOPTED = "adopted"
    EMPTY = "empty"
    HIDDEN = "hidden"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server, and this session with it."""

    version: str
    version_number: int
    """As `server_version_num`: 150006 is 15.6."""
    role: str
    login: str
    """As whom the session began: settings are that role's."""
    database: str
    encoding: str
    """As `SHOW server_encoding`."""
    settings: Mapping[str, str]
    """Those of `SETTINGS` that this server knows, as the session began with them."""
    options: str
    """What the client asked for when it connected: `-c row_security=off`."""
    is_standby: bool
    is_read_only: bool
    is_pooled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What every check looks at."""

    kind: Kind
    server: Server
    table: Table | None
    events: Table | None
    version_table: Table | None
    schema_version: str | None
    """None where there is none, or this role may not read it."""
    hidden_in: Sequence[str]
    """Schemas that this role may not look into, with a table of that name."""
    visible_in: Sequence[str]
    """Schemas out of the search path, with a table of that name."""
    is_distributed: bool

    @property
    def physical(self) -> Mapping[str, str]:
        """Return the names that lapse's columns have in this table."""
        has = self.table.columns if self.table else {}
        return {name: PREFIX + name if PREFIX + name in has else name for name in LAPSE_COLUMNS}

    @property
    def names(self) -> Names:
        """Return how the things of lapse's are spelled here."""
        return Names(schema=self.table.schema if self.table else "public", columns=self.physical)

    @property
    def is_current(self) -> bool:
        """Tell whether lapse made or adopted the table, in the version of this lapse."""
        return self.kind in (Kind.OWN, Kind.ADOPTED) and self.schema_version in (None, head_version())

    @property
    def is_behind(self) -> bool:
        """Tell whether `lapse migrate` has something to do."""
        return self.schema_version in known_versions()[:-1]

    @property
    def is_ahead(self) -> bool:
        """Tell whether a newer lapse made it."""
        return self.schema_version is not None and self.schema_version not in known_versions()

    @property
    def traits(self) -> list[str]:
        """Return what else there is to know about the database."""
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


def read_subject(connection: Connection) -> Subject:
    """Look at the catalog; inside a transaction that only reads."""
    driver = connection.driver
    table, adoption = read_table(driver, conversations.name), read_table(driver, ADOPTION_TABLE)
    version_table = read_table(driver, VERSION_TABLE)
    others = [] if table else rows(driver, _ELSEWHERE, {"name": conversations.name})
    hidden = [other["schema"] for other in others if not other["is_visible"]]
    is_complete = bool(version_table) and (adoption is None or _value(driver, _IS_COMPLETE) is not False)
    return Subject(
        kind=_kind(table, adoption=adoption, is_complete=is_complete, is_hidden=bool(hidden)),
        server=_read_server(driver),
        table=table,
        events=read_table(driver, conversation_events.name),
        version_table=version_table,
        schema_version=_value(driver, _VERSION) if version_table else None,
        hidden_in=hidden,
        visible_in=[other["schema"] for other in others if other["is_visible"]],
        is_distributed=look(driver, lambda: citus.is_distributed(connection)) is True,
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
    (found,) = rows(driver, _SERVER)
    # Not as they are now: `set_output` has changed some for this look.
    settings = {row["name"]: row["reset_val"] for row in rows(driver, _SETTINGS, {"names": list(SETTINGS)})}
    # A pooler hands out a process number of its own making.
    is_pooled = found.pop("pid") != driver.info.backend_pid
    return Server(is_pooled=is_pooled, settings=settings, options=driver.info.options, **found)


def _value(driver: psycopg.Connection[Any], query: str) -> Any:
    """Return the only value of the only row, or None where there is none or this role may not look."""
    found = look(driver, lambda: driver.execute(query.encode()).fetchone())
    return None if found is None or isinstance(found, psycopg.Error) else found[0]


def _kind(table: Table | None, *, adoption: Table | None, is_complete: bool, is_hidden: bool) -> Kind:
    if adoption and table:
        return Kind.ADOPTED if is_complete else Kind.ADOPTING
    if is_complete:
        return Kind.OWN
    if table is None:
        return Kind.HIDDEN if is_hidden else Kind.EMPTY
    return Kind.OTHER if obstacles(table) else Kind.ADOPTABLE

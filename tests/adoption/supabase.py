"""Supabase, as far as it concerns rights: the roles of its API, and what it gives them of every new table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import make_url

from lapse.store.table_mapping import VERSION_TABLE
from tests.adoption.legacy_table import connect
from tests.adoption.roles import Roles

API = ("anon", "authenticated")
SERVICE = "service_role"
RECEIPTS = "message_receipts"
OWN = ("conversations", "conversation_events", "message_receipts", VERSION_TABLE)
BESIDE_ADOPTED = ("conversation_events", "message_receipts", VERSION_TABLE, "lapse_adoption")
_ONE_AT_A_TIME = 0x73757061
_RECEIPT = f"INSERT INTO {RECEIPTS} SELECT owner_id, 'whatsapp', 'm', conv_id, now() FROM conversations LIMIT 1"
ATTEMPTS = {
    "SELECT": "SELECT count(*) FROM {table}",
    "INSERT": "INSERT INTO {table} SELECT * FROM {table}",
    "UPDATE": "UPDATE {table} SET {column} = {column}",
    "DELETE": "DELETE FROM {table}",
    "TRUNCATE": "TRUNCATE {table} CASCADE",
    "TRIGGER": "CREATE TRIGGER mine BEFORE UPDATE ON {table} FOR EACH ROW "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
}
_COLUMNS = {VERSION_TABLE: "version_num", "lapse_adoption": "keep", RECEIPTS: "channel"}


@contextmanager
def supabase_roles(url: str) -> Iterator[None]:
    """Make Supabase's roles on this database's server, for one test at a time: roles belong to the whole server."""
    with connect(make_url(url).set(database="postgres").render_as_string(hide_password=False)) as server:
        server.execute("SELECT pg_advisory_lock(%s)", [_ONE_AT_A_TIME])
        options = {"anon": "", "authenticated": "", SERVICE: "BYPASSRLS"}
        there = {name for (name,) in server.execute("SELECT rolname FROM pg_roles").fetchall()}
        made = [name for name in options if name not in there]
        for name in made:
            server.execute(f"CREATE ROLE {name} NOLOGIN NOINHERIT {options[name]}".encode())
        try:
            yield
        finally:
            for name in made:
                with connect(url) as connection:
                    connection.execute(f"DROP OWNED BY {name}".encode())
                server.execute(f"DROP ROLE {name}".encode())


def give_by_default(roles: Roles, *owners: str, to: str = ", ".join((*API, SERVICE))) -> None:
    """Let everything that these roles make in `public` be open to others, as Supabase does."""
    for owner in owners:
        roles.run(
            *(
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT ALL ON {kind} TO {to}"
                for kind in ("TABLES", "SEQUENCES", "FUNCTIONS")
            )
        )
    roles.run(f"GRANT USAGE ON SCHEMA public TO {to}")


def may(url: str, role: str, table: str) -> set[str]:
    """Return what a role succeeds in doing with a table; nothing of it stays.

    A statement that shows or changes no row of a table that has some, for row level security, does not count.
    """
    found = set()
    with connect(url) as connection:
        for right, statement in ATTEMPTS.items():
            text = statement.format(table=table, column=_COLUMNS.get(table, "version"))
            connection.execute("BEGIN")
            if table == RECEIPTS:
                connection.execute(_RECEIPT.encode())
            try:
                connection.execute(f"SET LOCAL ROLE {role}".encode())
                cursor = connection.execute(text.encode())
                rows = cursor.fetchall()[0][0] if right == "SELECT" else cursor.rowcount
                if rows or right in ("TRUNCATE", "TRIGGER"):
                    found.add(right)
            except psycopg.errors.UniqueViolation:
                found.add(right)  # it may insert, but not the same row once more
            except psycopg.errors.InsufficientPrivilege:
                pass
            finally:
                connection.execute("ROLLBACK")
    return found

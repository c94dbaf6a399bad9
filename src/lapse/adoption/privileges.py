"""The privileges of a role on a table, read from the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from lapse.adoption.bounded_queries import fetch_rows
from lapse.adoption.catalog import Table
from lapse.adoption.findings import name_of

_COLUMNS_WITHOUT = """
    SELECT a.attname::text AS name FROM pg_attribute a
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
        AND (%(columns)s::text[] IS NULL OR a.attname = ANY (%(columns)s::text[]))
        AND NOT CASE WHEN %(privilege)s = 'DELETE' THEN has_table_privilege(a.attrelid, 'DELETE')
            ELSE has_column_privilege(a.attrelid, a.attnum, %(privilege)s) END ORDER BY a.attnum"""


def columns_without_privilege(
    connection: Connection[Any], table: Table, privilege: str, columns: Sequence[str] | None = None
) -> list[str]:
    """Return the columns on which the current role lacks a privilege.

    Args:
        connection: of the role.
        table: the table.
        privilege: SELECT, INSERT or UPDATE, granted on the table or on single columns; or DELETE.
        columns: the columns to check; None for all.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    parameters = {
        "table": name_of(table),
        "privilege": privilege,
        "columns": None if columns is None else list(columns),
    }
    return [row["name"] for row in fetch_rows(connection, _COLUMNS_WITHOUT, parameters)]


def can_select(connection: Connection[Any], table: Table) -> bool:
    """Tell whether the current role has SELECT on every column.

    Raises:
        psycopg.Error: the database refused, or the connection is lost.
    """
    return not columns_without_privilege(connection, table, "SELECT")

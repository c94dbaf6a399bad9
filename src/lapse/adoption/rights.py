"""What a role may do with a table, by the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from lapse.adoption.catalog import Table
from lapse.adoption.findings import name_of
from lapse.adoption.looks import rows

_COLUMNS_WITHOUT = """
    SELECT a.attname::text AS name FROM pg_attribute a
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
        AND (%(columns)s::text[] IS NULL OR a.attname = ANY (%(columns)s::text[]))
        AND NOT has_column_privilege(a.attrelid, a.attnum, %(right)s) ORDER BY a.attnum"""


def columns_without(
    connection: Connection[Any], table: Table, right: str, columns: Sequence[str] | None = None
) -> list[str]:
    """Return the columns, of all or of these, for which the current role has not got this right.

    Args:
        connection: of the role.
        table: to look at.
        right: SELECT, INSERT or UPDATE; granted for the table or for single columns.
        columns: None for all.
    """
    parameters = {"table": name_of(table), "right": right, "columns": None if columns is None else list(columns)}
    return [row["name"] for row in rows(connection, _COLUMNS_WITHOUT, parameters)]


def may_read(connection: Connection[Any], table: Table) -> bool:
    """Tell whether the current role may read every column."""
    return not columns_without(connection, table, "SELECT")

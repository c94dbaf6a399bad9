"""Check the functions of lapse's triggers on an adopted table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from lapse.adoption.bounded_queries import fetch_rows
from lapse.adoption.findings import Finding, error, name_of
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import INSERT_TRIGGER, KEY_FUNCTION, TRIGGER_FUNCTIONS, quoted

_FUNCTIONS = """
    SELECT p.proname::text AS name, pg_get_userbyid(p.proowner)::text AS owner, p.prosecdef AS is_definer,
        pg_get_function_identity_arguments(p.oid) AS arguments
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = %(schema)s AND p.proname = ANY (%(names)s)"""


def check_functions(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield functions that are missing, or run with the privileges of another role than the table's owner."""
    table = inspection.table
    if inspection.kind is not Kind.ADOPTED or table is None:
        return
    wanted = [KEY_FUNCTION, *TRIGGER_FUNCTIONS]
    existing = {
        row["name"]: row for row in fetch_rows(connection, _FUNCTIONS, {"schema": table.schema, "names": wanted})
    }
    for name in wanted:
        function = existing.get(name)
        if function is None:
            yield error(
                "missing-function",
                f"lapse's function {name} is missing: the application's writes are refused, or break lapse's rules.",
                f"DROP TRIGGER IF EXISTS {INSERT_TRIGGER} ON {name_of(table)}; then `lapse adopt` recreates all.",
            )
        elif function["is_definer"] and function["owner"] != table.owner:
            yield error(
                "function-owner",
                f"lapse's function {name} runs with the privileges of {function['owner']}, not of the table's "
                f"owner, {table.owner}: the application's writes may be refused.",
                f"ALTER FUNCTION {inspection.names.qualified(name)}({function['arguments']}) OWNER TO "
                f"{quoted(table.owner)};",
            )

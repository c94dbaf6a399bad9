"""Check the functions behind lapse's triggers on an adopted table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from lapse.adoption.findings import Finding, name_of, trouble
from lapse.adoption.looks import rows
from lapse.adoption.names import INSERT_TRIGGER, KEY_FUNCTION, TRIGGER_FUNCTIONS, quoted
from lapse.adoption.subject import Kind, Subject

_FUNCTIONS = """
    SELECT p.proname::text AS name, pg_get_userbyid(p.proowner)::text AS owner, p.prosecdef AS is_definer,
        pg_get_function_identity_arguments(p.oid) AS arguments
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = %(schema)s AND p.proname = ANY (%(names)s)"""


def check_functions(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield functions that are gone, or that work with the rights of another role than the table's owner."""
    table = subject.table
    if subject.kind is not Kind.ADOPTED or table is None:
        return
    wanted = [KEY_FUNCTION, *TRIGGER_FUNCTIONS]
    found = {row["name"]: row for row in rows(connection, _FUNCTIONS, {"schema": table.schema, "names": wanted})}
    for name in wanted:
        function = found.get(name)
        if function is None:
            yield trouble(
                "missing-function",
                f"lapse's function {name} is missing: what the application writes is refused, or not kept in order.",
                f"DROP TRIGGER IF EXISTS {INSERT_TRIGGER} ON {name_of(table)}; then `lapse adopt` makes all again.",
            )
        elif function["is_definer"] and function["owner"] != table.owner:
            yield trouble(
                "function-owner",
                f"lapse's function {name} works with the rights of {function['owner']}, not of the table's owner, "
                f"{table.owner}: what the application writes may be refused.",
                f"ALTER FUNCTION {subject.names.qualified(name)}({function['arguments']}) OWNER TO "
                f"{quoted(table.owner)};",
            )

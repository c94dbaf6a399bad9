"""Check that the table accepts every status that lapse writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from psycopg import Connection, Error

from lapse.adoption.bounded_queries import fetch_rows, in_savepoint
from lapse.adoption.catalog import Constraint, Table
from lapse.adoption.findings import Finding, error, name_of
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import quoted
from lapse.lifecycle import ConversationStatus

_LONGEST = max(len(status) for status in ConversationStatus)

# Only conditions of built-in functions are evaluated here: others may have side effects.
_IS_BUILT_IN = """
    SELECT NOT EXISTS (SELECT FROM pg_depend d JOIN pg_constraint c ON d.objid = c.oid
        WHERE d.classid = 'pg_constraint'::regclass AND c.conrelid = to_regclass(%(table)s) AND c.conname = %(name)s
            AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)) AS is_built_in"""


def check_statuses(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield CHECK constraints, or a length of the column, that refuse one of lapse's statuses."""
    table = inspection.table
    column = table.columns.get("status") if table else None
    if table is None or column is None or inspection.kind is Kind.OTHER:
        return
    length = re.search(r"\((\d+)\)", column.type)
    if length and int(length[1]) < _LONGEST:
        yield error(
            "status-check",
            f"conversations.status is {column.type}: the longest status of lapse has {_LONGEST} characters.",
            f"ALTER TABLE {name_of(table)} ALTER COLUMN status TYPE text;",
        )
    for constraint in table.constraints.values():
        if constraint.kind != "c" or constraint.columns != ["status"]:
            continue
        if refused := _refused(connection, table, constraint, column.type):
            yield error(
                "status-check",
                f"The constraint {constraint.name} refuses {', '.join(refused)}: lapse cannot set these statuses.",
                f"ALTER TABLE {name_of(table)} DROP CONSTRAINT {quoted(constraint.name)}; and add it again with every "
                f"status: {', '.join(ConversationStatus)}.",
            )


def _refused(connection: Connection[Any], table: Table, constraint: Constraint, kind: str) -> list[str]:
    """Return lapse's statuses that violate the constraint; none where it cannot be evaluated here."""
    (row,) = fetch_rows(connection, _IS_BUILT_IN, {"table": name_of(table), "name": constraint.name})
    condition = re.fullmatch(r"CHECK (\(.*\))( NO INHERIT)?( NOT VALID)?( NOT ENFORCED)?", constraint.definition, re.S)
    if not row["is_built_in"] or condition is None or condition[4]:
        return []
    # The condition is the table's own, as PostgreSQL prints it.
    query = (
        f"SELECT status FROM (SELECT name::{kind} AS status FROM unnest(%(statuses)s::text[]) AS name) AS of_lapse "  # noqa: S608 - see above
        f"WHERE NOT ({condition[1].replace('%', '%%')})"
    )
    result = in_savepoint(
        connection, lambda: fetch_rows(connection, query, {"statuses": list(map(str, ConversationStatus))})
    )
    return [] if isinstance(result, Error) else [row["status"] for row in result]

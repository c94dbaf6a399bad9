"""Check that the table takes every status that lapse writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from psycopg import Connection, Error

from lapse.adoption.catalog import Constraint, Table
from lapse.adoption.findings import Finding, name_of, trouble
from lapse.adoption.looks import look, rows
from lapse.adoption.names import quoted
from lapse.adoption.subject import Kind, Subject
from lapse.lifecycle import ConversationStatus

_LONGEST = max(len(status) for status in ConversationStatus)

# Only what consists of PostgreSQL's own functions is computed here: anybody may have written the others.
_IS_PLAIN = """
    SELECT NOT EXISTS (SELECT FROM pg_depend d JOIN pg_constraint c ON d.objid = c.oid
        WHERE d.classid = 'pg_constraint'::regclass AND c.conrelid = to_regclass(%(table)s) AND c.conname = %(name)s
            AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)) AS is_plain"""


def check_statuses(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield what refuses one of lapse's statuses: a CHECK constraint, or the length of the column."""
    table = subject.table
    column = table.columns.get("status") if table else None
    if table is None or column is None or subject.kind is Kind.OTHER:
        return
    length = re.search(r"\((\d+)\)", column.type)
    if length and int(length[1]) < _LONGEST:
        yield trouble(
            "status-check",
            f"conversations.status is {column.type}: the longest of lapse's statuses has {_LONGEST} characters.",
            f"ALTER TABLE {name_of(table)} ALTER COLUMN status TYPE text;",
        )
    for constraint in table.constraints.values():
        if constraint.kind != "c" or constraint.columns != ["status"]:
            continue
        if refused := _refused(connection, table, constraint, column.type):
            yield trouble(
                "status-check",
                f"The constraint {constraint.name} refuses {', '.join(refused)}: conversations cannot end so.",
                f"ALTER TABLE {name_of(table)} DROP CONSTRAINT {quoted(constraint.name)}; and add it again with every "
                f"status: {', '.join(ConversationStatus)}.",
            )


def _refused(connection: Connection[Any], table: Table, constraint: Constraint, kind: str) -> list[str]:
    """Return the statuses of lapse's that the constraint does not let pass, as far as that can be told."""
    (plain,) = rows(connection, _IS_PLAIN, {"table": name_of(table), "name": constraint.name})
    condition = re.fullmatch(r"CHECK (\(.*\))( NO INHERIT)?( NOT VALID)?( NOT ENFORCED)?", constraint.definition, re.S)
    if not plain["is_plain"] or condition is None or condition[4]:
        return []
    # The condition is the table's own, as PostgreSQL writes it.
    query = (
        f"SELECT status FROM (SELECT name::{kind} AS status FROM unnest(%(statuses)s::text[]) AS name) AS of_lapse "  # noqa: S608 - see above
        f"WHERE NOT ({condition[1].replace('%', '%%')})"
    )
    found = look(connection, lambda: rows(connection, query, {"statuses": list(map(str, ConversationStatus))}))
    return [] if isinstance(found, Error) else [row["status"] for row in found]

"""Check that PUBLIC and default privileges grant no access to lapse's tables, or to the adopted one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from psycopg import Connection

from lapse.adoption.bounded_queries import fetch_rows
from lapse.adoption.findings import Finding, error, name_of
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import CONVERSATIONS, quoted
from lapse.store.table_access import grantees_query
from lapse.store.table_mapping import ADOPTION_TABLE

_ORDER = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")


def check_exposed(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield tables that PUBLIC, or a role with default privileges only, can read or write."""
    if inspection.kind not in (Kind.OWN, Kind.ADOPTED, Kind.ADOPTING):
        return
    tables = [name_of(table) for table in (inspection.table, *inspection.tables_beside) if table]
    if inspection.kind is not Kind.OWN and inspection.table:
        tables.append(f"{quoted(inspection.table.schema)}.{ADOPTION_TABLE}")
    exposed = []
    for grantee in fetch_rows(connection, grantees_query(tables)):
        is_applications = grantee["table_name"] == CONVERSATIONS and inspection.kind is not Kind.OWN
        if exposed_privileges := _exposed_privileges(grantee, is_applications=is_applications):
            exposed.append((grantee, exposed_privileges, is_applications))
    for (table, exposed_privileges, is_applications), grantees in groupby(
        exposed, key=lambda each: (each[0]["of_table"], each[1], each[2])
    ):
        roles = ", ".join(grantee["of_role"] for grantee, *_ in grantees)
        yield _finding(table, exposed_privileges, roles, is_applications=is_applications)


def _exposed_privileges(grantee: dict[str, Any], *, is_applications: bool) -> tuple[str, ...]:
    """Return the privileges of a role that nobody granted to it by name."""
    is_trusted = not grantee["is_anybody"] and (grantee["is_granted"] or grantee["logs_in"])
    if is_applications:
        # The application is responsible for its policies, and for the role with which it logs in.
        is_named = is_trusted or grantee["has_row_security"]
    elif grantee["is_anybody"]:
        is_named = grantee["has_policy"] and grantee["has_row_security"]
    else:
        is_named = grantee["is_granted"] or grantee["has_policy"]
    exposed = set() if is_named else set(grantee["open_rights"])
    if "TRUNCATE" in grantee["rights"] and not is_trusted:
        exposed.add("TRUNCATE")
    return tuple(privilege for privilege in _ORDER if privilege in exposed)


def _finding(table: str, privileges: tuple[str, ...], roles: str, *, is_applications: bool) -> Finding:
    message = (
        f"{roles} can {', '.join(privileges)} {table}, by default privileges or as PUBLIC, not by a GRANT to a named "
        "role: where an API publishes the schema (Supabase's does), anybody with its public key can."
    )
    if privileges == ("TRUNCATE",):
        return error("exposed", message, f"REVOKE TRUNCATE, REFERENCES, TRIGGER ON {table} FROM {roles};")
    hint = f"REVOKE ALL ON {table} FROM {roles};"
    if is_applications:
        hint += (
            f" or, where your clients access it as these roles: ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; with "
            "policies that define the visible rows of each."
        )
    return error("exposed", message, hint)

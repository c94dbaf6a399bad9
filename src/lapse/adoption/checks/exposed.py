"""Check that lapse's tables, and the adopted one, are open to nobody whom nobody named."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from psycopg import Connection

from lapse.adoption.findings import Finding, name_of, trouble
from lapse.adoption.looks import rows
from lapse.adoption.names import CONVERSATIONS, quoted
from lapse.adoption.subject import Kind, Subject
from lapse.store.layout import ADOPTION_TABLE
from lapse.store.table_access import grantees_query

_ORDER = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")


def check_exposed(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield tables that PUBLIC, or a role that only default privileges let in, may read or write."""
    if subject.kind not in (Kind.OWN, Kind.ADOPTED, Kind.ADOPTING):
        return
    tables = [name_of(table) for table in (subject.table, subject.events, subject.version_table) if table]
    if subject.kind is not Kind.OWN and subject.table:
        tables.append(f"{quoted(subject.table.schema)}.{ADOPTION_TABLE}")
    exposed = []
    for grantee in rows(connection, grantees_query(tables)):
        is_applications = grantee["table_name"] == CONVERSATIONS and subject.kind is not Kind.OWN
        if rights := _exposed_rights(grantee, is_applications=is_applications):
            exposed.append((grantee, rights, is_applications))
    for (table, rights, is_applications), found in groupby(
        exposed, key=lambda each: (each[0]["of_table"], each[1], each[2])
    ):
        roles = ", ".join(grantee["of_role"] for grantee, *_ in found)
        yield _finding(table, rights, roles, is_applications=is_applications)


def _exposed_rights(grantee: dict[str, Any], *, is_applications: bool) -> tuple[str, ...]:
    """Return what a role may do with a table though nobody named it for that."""
    is_trusted = not grantee["is_anybody"] and (grantee["is_granted"] or grantee["logs_in"])
    if is_applications:
        # Policies there are the application's own affair, and so is the role as which it logs in.
        is_named = is_trusted or grantee["has_row_security"]
    elif grantee["is_anybody"]:
        is_named = grantee["has_policy"] and grantee["has_row_security"]
    else:
        is_named = grantee["is_granted"] or grantee["has_policy"]
    rights = set() if is_named else set(grantee["open_rights"])
    if "TRUNCATE" in grantee["rights"] and not is_trusted:
        rights.add("TRUNCATE")
    return tuple(right for right in _ORDER if right in rights)


def _finding(table: str, rights: tuple[str, ...], roles: str, *, is_applications: bool) -> Finding:
    what = (
        f"{roles} may {', '.join(rights)} {table}, by default privileges or as PUBLIC, not because somebody named them "
        "for it: where an API publishes the schema (Supabase's does), whoever has its public key may."
    )
    if rights == ("TRUNCATE",):
        return trouble("exposed", what, f"REVOKE TRUNCATE, REFERENCES, TRIGGER ON {table} FROM {roles};")
    do = f"REVOKE ALL ON {table} FROM {roles};"
    if is_applications:
        do += (
            f" or, where your clients use it as these roles: ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; with "
            "policies that say which rows each may see."
        )
    return trouble("exposed", what, do)

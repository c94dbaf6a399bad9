"""Check row level security: without a policy for its role a worker sees no row, and gets no error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg import Connection

from lapse.adoption.bounded_queries import fetch_rows
from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, error, name_of, warning
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import quoted
from lapse.adoption.privileges import columns_without_privilege

_POLICIES = """
    SELECT p.polcmd::text AS command, p.polpermissive AS is_permissive,
        coalesce(pg_get_expr(p.polqual, p.polrelid), 'true') = 'true' AS all_visible,
        coalesce(pg_get_expr(p.polwithcheck, p.polrelid), pg_get_expr(p.polqual, p.polrelid), 'true') = 'true'
            AS all_accepted
    FROM pg_policy p WHERE p.polrelid = to_regclass(%(table)s) AND EXISTS (SELECT FROM unnest(p.polroles) AS of_role
        WHERE of_role = 0 OR pg_has_role(%(role)s::name, of_role, 'USAGE'))"""
_IS_EXEMPT = "SELECT rolsuper OR rolbypassrls AS is_exempt FROM pg_roles WHERE rolname = %(role)s"
_COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}
_NEEDED = {
    "conversations": ("SELECT", "INSERT", "UPDATE"),
    "conversation_events": ("SELECT", "INSERT"),
    "message_receipts": ("SELECT", "INSERT", "DELETE"),
}


def check_policies(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield tables whose policies hide rows from this role."""
    if inspection.kind in (Kind.OTHER, Kind.HIDDEN):
        return
    role = inspection.server.role
    for table in filter(None, (inspection.table, *inspection.tables_beside)):
        if not table.is_row_security_active:
            continue
        # A missing privilege is reported by `check_privileges`.
        commands = _NEEDED.get(table.name, ("SELECT",))
        needed = [command for command in commands if not columns_without_privilege(connection, table, command)]
        blocked, filtered = _policy_effects(connection, table, role, needed)
        if blocked:
            yield error(
                "row-security",
                f"Row level security of {table.name} has no policy for role {role} and {', '.join(blocked)}: "
                f"{_consequence(blocked)}.",
                f"CREATE POLICY {quoted(f'lapse_{role}')} ON {name_of(table)} TO {quoted(role)} USING (true) WITH "
                f"CHECK (true); or, as a superuser: ALTER ROLE {quoted(role)} BYPASSRLS;",
            )
        if filtered:
            yield warning(
                "row-security-filter",
                f"The policies of {table.name} restrict role {role} to some rows ({', '.join(filtered)}): lapse "
                "neither sees nor ends the others.",
                f"If it should see all: CREATE POLICY {quoted(f'lapse_{role}')} ON {name_of(table)} TO {quoted(role)} "
                "USING (true) WITH CHECK (true); and no restrictive policy.",
            )


def check_unprotected(inspection: Inspection) -> Iterator[Finding]:
    """Yield lapse's own tables without row level security: an API may publish them."""
    if not inspection.is_current:
        return
    own = [inspection.table] if inspection.kind is Kind.OWN else []
    for table in filter(None, [*own, *inspection.tables_beside]):
        if not table.has_row_security:
            yield warning(
                "row-security-missing",
                f"{table.name} has no row level security: a single GRANT makes it visible to all users of the schema's "
                "API (Supabase publishes the schema public).",
                f"ALTER TABLE {name_of(table)} ENABLE ROW LEVEL SECURITY; and policies for lapse's roles.",
            )


def check_forced_security(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield whether row level security applies to the table's owner, with whose privileges lapse's triggers run."""
    if inspection.kind not in (Kind.ADOPTABLE, Kind.ADOPTING, Kind.ADOPTED):
        return
    for table in filter(None, (inspection.table, inspection.events)):
        if not (table.has_row_security and table.forces_row_security):
            continue
        exempt = fetch_rows(connection, _IS_EXEMPT, {"role": table.owner})
        blocked, filtered = _policy_effects(connection, table, table.owner, _NEEDED[table.name])
        if (blocked or filtered) and not any(row["is_exempt"] for row in exempt):
            yield error(
                "forced-row-security",
                f"Row level security of {table.name} is forced: it also applies to its owner, {table.owner}, with "
                f"whose privileges lapse's triggers run, and hides rows from it ({', '.join([*blocked, *filtered])}).",
                f"ALTER TABLE {name_of(table)} NO FORCE ROW LEVEL SECURITY;",
            )


def _policy_effects(
    connection: Connection[Any], table: Table, role: str, commands: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the commands without a policy for the role, and those whose policies restrict it to some rows."""
    policies = fetch_rows(connection, _POLICIES, {"table": name_of(table), "role": role})
    blocked, filtered = [], []
    for command in commands:
        of_command = [policy for policy in policies if _COMMANDS.get(policy["command"], command) == command]
        permissive = [policy for policy in of_command if policy["is_permissive"]]
        if not permissive:
            blocked.append(command)
        elif not any(_allows_all_rows(policy, command) for policy in permissive) or not all(
            _allows_all_rows(policy, command) for policy in of_command if not policy["is_permissive"]
        ):
            filtered.append(command)
    return blocked, filtered


def _allows_all_rows(policy: dict[str, Any], command: str) -> bool:
    all_visible, all_accepted = bool(policy["all_visible"]), bool(policy["all_accepted"])
    return {"SELECT": all_visible, "INSERT": all_accepted}.get(command, all_visible and all_accepted)


def _consequence(blocked: Sequence[str]) -> str:
    if "SELECT" in blocked:
        return "it sees no row, and gets no error"
    return "it changes no row, and gets no error" if "UPDATE" in blocked else "its inserts are refused"

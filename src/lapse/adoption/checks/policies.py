"""Check row level security: without a policy that lets it through, a worker sees no row, and no error either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg import Connection

from lapse.adoption.catalog import Table
from lapse.adoption.findings import Finding, name_of, note, trouble
from lapse.adoption.looks import rows
from lapse.adoption.names import quoted
from lapse.adoption.rights import columns_without
from lapse.adoption.subject import Kind, Subject

_POLICIES = """
    SELECT p.polcmd::text AS command, p.polpermissive AS is_permissive,
        coalesce(pg_get_expr(p.polqual, p.polrelid), 'true') = 'true' AS shows_all,
        coalesce(pg_get_expr(p.polwithcheck, p.polrelid), pg_get_expr(p.polqual, p.polrelid), 'true') = 'true'
            AS takes_all
    FROM pg_policy p WHERE p.polrelid = to_regclass(%(table)s) AND EXISTS (SELECT FROM unnest(p.polroles) AS of_role
        WHERE of_role = 0 OR pg_has_role(%(role)s::name, of_role, 'USAGE'))"""
_IS_EXEMPT = "SELECT rolsuper OR rolbypassrls AS is_exempt FROM pg_roles WHERE rolname = %(role)s"
_COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}
_NEEDED = {"conversations": ("SELECT", "INSERT", "UPDATE"), "conversation_events": ("SELECT", "INSERT")}


def check_policies(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield tables whose policies keep rows from this role."""
    if subject.kind in (Kind.OTHER, Kind.HIDDEN):
        return
    role = subject.server.role
    for table in filter(None, (subject.table, subject.events, subject.version_table)):
        if not table.is_row_security_active:
            continue
        # What the role has no right to at all is said elsewhere.
        commands = _NEEDED.get(table.name, ("SELECT",))
        needed = [command for command in commands if not columns_without(connection, table, command)]
        shut, filtered = _through(connection, table, role, needed)
        if shut:
            yield trouble(
                "row-security",
                f"Row level security of {table.name} has no policy for role {role} and {', '.join(shut)}: "
                f"{_consequence(shut)}.",
                f"CREATE POLICY {quoted(f'lapse_{role}')} ON {name_of(table)} TO {quoted(role)} USING (true) WITH "
                f"CHECK (true); or, as a superuser: ALTER ROLE {quoted(role)} BYPASSRLS;",
            )
        if filtered:
            yield note(
                "row-security-filter",
                f"The policies of {table.name} let role {role} through to some rows only ({', '.join(filtered)}): "
                "lapse sees and ends no others.",
                f"If it should see all: CREATE POLICY {quoted(f'lapse_{role}')} ON {name_of(table)} TO {quoted(role)} "
                "USING (true) WITH CHECK (true); and no restrictive policy.",
            )


def check_unprotected(subject: Subject) -> Iterator[Finding]:
    """Yield tables of lapse's own that have no row level security: an API may show them."""
    if not subject.is_current:
        return
    own = (subject.table if subject.kind is Kind.OWN else None, subject.events, subject.version_table)
    for table in filter(None, own):
        if not table.has_row_security:
            yield note(
                "row-security-missing",
                f"{table.name} has no row level security: one GRANT too many, and whoever may use the schema's API "
                "(Supabase publishes the schema public) sees it.",
                f"ALTER TABLE {name_of(table)} ENABLE ROW LEVEL SECURITY; and policies for the roles of lapse.",
            )


def check_forced_security(subject: Subject, connection: Connection[Any]) -> Iterator[Finding]:
    """Yield whether row level security also binds the table's owner, as whom lapse's triggers work."""
    if subject.kind not in (Kind.ADOPTABLE, Kind.ADOPTING, Kind.ADOPTED):
        return
    for table in filter(None, (subject.table, subject.events)):
        if not (table.has_row_security and table.forces_row_security):
            continue
        exempt = rows(connection, _IS_EXEMPT, {"role": table.owner})
        shut, filtered = _through(connection, table, table.owner, _NEEDED[table.name])
        if (shut or filtered) and not any(row["is_exempt"] for row in exempt):
            yield trouble(
                "forced-row-security",
                f"Row level security of {table.name} is forced: it also binds its owner, {table.owner}, as whom "
                f"lapse's triggers work, and keeps rows from it ({', '.join([*shut, *filtered])}).",
                f"ALTER TABLE {name_of(table)} NO FORCE ROW LEVEL SECURITY;",
            )


def _through(
    connection: Connection[Any], table: Table, role: str, commands: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the commands for which no policy lets the role through, and those for which only to some rows."""
    policies = rows(connection, _POLICIES, {"table": name_of(table), "role": role})
    shut, filtered = [], []
    for command in commands:
        of_command = [policy for policy in policies if _COMMANDS.get(policy["command"], command) == command]
        permissive = [policy for policy in of_command if policy["is_permissive"]]
        if not permissive:
            shut.append(command)
        elif not any(_lets_all(policy, command) for policy in permissive) or not all(
            _lets_all(policy, command) for policy in of_command if not policy["is_permissive"]
        ):
            filtered.append(command)
    return shut, filtered


def _lets_all(policy: dict[str, Any], command: str) -> bool:
    shows_all, takes_all = bool(policy["shows_all"]), bool(policy["takes_all"])
    return {"SELECT": shows_all, "INSERT": takes_all}.get(command, shows_all and takes_all)


def _consequence(shut: Sequence[str]) -> str:
    if "SELECT" in shut:
        return "it sees no row, and no error"
    return "it changes no row, and sees no error" if "UPDATE" in shut else "what it writes is refused"

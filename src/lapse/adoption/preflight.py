"""Preflight checks: whether a table can be adopted or an adoption reverted, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from psycopg import Connection

from lapse.adoption.bounded_queries import BEGIN, apply_session_settings, fetch_rows, set_limits
from lapse.adoption.catalog import Table
from lapse.adoption.checks.kind import check_server, check_version
from lapse.adoption.checks.name_conflicts import check_name_conflicts
from lapse.adoption.checks.policies import check_forced_security
from lapse.adoption.checks.privileges import check_adoption_privileges
from lapse.adoption.checks.settings import check_settings
from lapse.adoption.checks.statuses import check_statuses
from lapse.adoption.findings import ERROR, Finding, error, name_of
from lapse.adoption.inspection import Inspection, Kind, inspect_database
from lapse.adoption.names import quoted
from lapse.adoption.pooling import require_own_session
from lapse.adoption.required_columns import obstacles
from lapse.errors import AdoptionError
from lapse.store.connection import Connection as StoreConnection


def check_adoptable(store: StoreConnection) -> None:
    """Check that the table can be adopted, or that its adoption can be resumed.

    Raises:
        AdoptionError: it cannot, or a transaction pooler shares the session; the message says what to do.
        psycopg.Error: the database refused, or the connection is lost.
    """
    _raise_first(_errors(store, _adoption_findings))


def check_revertible(store: StoreConnection) -> None:
    """Check that the table is adopted, completely or in part, and that this role can revert the adoption.

    Raises:
        AdoptionError: it cannot, or a transaction pooler shares the session; the message says what to do.
        psycopg.Error: the database refused, or the connection is lost.
    """
    _raise_first(_errors(store, _revert_findings))


Check = Callable[[Inspection, Connection[Any]], Iterator[Finding]]


def _raise_first(findings: list[Finding]) -> None:
    for finding in findings:
        raise AdoptionError(f"{finding.message.rstrip('.')}; nothing was changed: {finding.hint}")


def _errors(store: StoreConnection, check: Check) -> list[Finding]:
    require_own_session(store.driver)  # outside a transaction, during which any pooler keeps the session
    # For the whole run: what the catalog says is executed as SQL later, and stored.
    apply_session_settings(store.driver, is_local=False)

    def work(inside: StoreConnection) -> list[Finding]:
        set_limits(inside.driver)
        findings = check(inspect_database(inside), inside.driver)
        return [finding for finding in findings if finding.level == ERROR]

    return store.transaction(BEGIN, work)


def _revert_findings(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    yield from check_server(inspection)
    yield from check_settings(inspection)
    if inspection.kind is Kind.OWN:
        yield error("own", "The tables are lapse's own", "there is no adoption to revert")
    elif inspection.kind not in (Kind.ADOPTED, Kind.ADOPTING):
        yield error("not-adopted", "The table conversations is not adopted", "there is no adoption to revert")
    yield from check_adoption_privileges(replace(inspection, kind=Kind.ADOPTING), connection)


def _adoption_findings(inspection: Inspection, connection: Connection[Any]) -> Iterator[Finding]:
    yield from check_server(inspection)
    yield from check_settings(inspection)
    if inspection.kind is Kind.OWN:
        yield error("own", "The tables are lapse's own", "there is nothing to adopt; `lapse migrate` upgrades them")
    if inspection.table is None:
        yield error(
            "no-table",
            "There is no table conversations in this role's search_path",
            "check DATABASE_URL and the role; if the table does not exist yet, `lapse migrate` creates lapse's own",
        )
        return
    yield from obstacles(inspection.table)
    # An adopted table is checked as one whose adoption is incomplete: parts of it may be missing.
    adopting = replace(inspection, kind=Kind.ADOPTING)
    yield from check_adoption_privileges(adopting, connection)
    yield from _check_owner(inspection.table, connection)
    yield from check_forced_security(adopting, connection)
    yield from check_statuses(adopting, connection)
    yield from check_version(inspection) if inspection.kind is Kind.ADOPTED else ()
    yield from check_name_conflicts(inspection, connection)


_OWNER_CANNOT_CREATE = """
    SELECT FROM pg_class c WHERE c.oid = to_regclass(%(table)s)
        AND NOT has_schema_privilege(c.relowner, c.relnamespace, 'CREATE')"""


def _check_owner(table: Table, connection: Connection[Any]) -> Iterator[Finding]:
    """Check the privileges of the owner, who will own lapse's tables and functions."""
    if fetch_rows(connection, _OWNER_CANNOT_CREATE, {"table": name_of(table)}):
        yield error(
            "missing-privilege",
            f"The table's owner, {table.owner}, lacks CREATE on schema {table.schema}",
            f"GRANT CREATE ON SCHEMA {quoted(table.schema)} TO {quoted(table.owner)};",
        )
    if table.is_row_security_active:
        yield error(
            "row-security",
            "Row level security hides rows of the table from this role",
            "adopt as a role with BYPASSRLS",
        )

"""`lapse doctor` on PostgreSQL: what a database is, and every problem that lapse would have with it. It only reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa

from lapse.addresses import mask_addresses
from lapse.adoption import require_postgresql
from lapse.adoption.bounded_queries import BEGIN, in_savepoint, set_limits
from lapse.adoption.checks import (
    clock,
    columns,
    constraints,
    duplicates,
    exposed,
    functions,
    indexes,
    kind,
    name_conflicts,
    policies,
    privileges,
    rows,
    settings,
    statuses,
    triggers,
    vacuum,
)
from lapse.adoption.findings import ERROR, WARNING, Finding, warning
from lapse.adoption.inspection import Inspection, Kind, inspect_database
from lapse.errors import DatabaseUnavailableError
from lapse.store import Database
from lapse.store.connection import Connection, StatementCache

CATALOG_CHECKS: Sequence[Callable[[Inspection], Iterator[Finding]]] = (
    kind.check_kind,
    kind.check_version,
    kind.check_server,
    settings.check_settings,
    settings.check_encoding,
    columns.check_columns,
    constraints.check_primary_keys,
    constraints.check_row_checks,
    triggers.check_own_triggers,
    triggers.check_activity_triggers,
    indexes.check_indexes,
    indexes.check_valid_indexes,
    policies.check_unprotected,
    columns.check_fillable,
    indexes.check_cheap_messages,
)
"""Use only what the inspection has read from the catalog."""
QUERY_CHECKS: dict[str, Callable[[Inspection, psycopg.Connection[Any]], Iterator[Finding]]] = {
    "name conflicts with adoption": name_conflicts.check_name_conflicts,
    "privileges": privileges.check_privileges,
    "privileges to adopt": privileges.check_adoption_privileges,
    "the privilege on the sequence": privileges.check_sequence_privilege,
    "row level security": policies.check_policies,
    "forced row level security": policies.check_forced_security,
    "access by PUBLIC and default privileges": exposed.check_exposed,
    "the statuses that the table accepts": statuses.check_statuses,
    "lapse's functions": functions.check_functions,
    "duplicates": duplicates.check_duplicates,
    "rows": rows.check_rows,
    "the clock": clock.check_clock,
    "autovacuum": vacuum.check_autovacuum,
    "dead rows": vacuum.check_dead_rows,
    "what holds back vacuum": vacuum.check_vacuum_is_free,
}
"""Each runs queries of its own: one that fails, or times out, is reported as `unknown`, and the others continue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The result of examining a database."""

    kind: Kind
    traits: list[str]
    """Special properties, such as `read-only`."""
    server_version: str
    product: str = "PostgreSQL"
    findings: list[Finding] = field(default_factory=list)
    """Errors first."""

    @property
    def is_healthy(self) -> bool:
        """Tell whether there is no error; warnings do not count."""
        return all(finding.level != ERROR for finding in self.findings)


def examine(database: Database) -> Diagnosis:
    """Examine the database, in one read-only transaction whose statements have a timeout.

    Raises:
        InvalidInputError: it is SQLite.
        DatabaseUnavailableError: it cannot be reached, or its tables are locked.
        DatabaseError: its catalog cannot be read.
    """
    require_postgresql(database)
    statements = StatementCache(database.engine.dialect)

    def work(connection: sa.Connection) -> Diagnosis:
        driver = connection.connection.driver_connection
        return Connection(driver, statements).transaction(BEGIN, examine_within)

    # Not by `autocommit`, which reads the layout of the table first and would wait for any lock.
    return database.inspect(work, retry=False)


def examine_within(connection: Connection) -> Diagnosis:
    """Examine the database inside a read-only transaction that has begun.

    Raises:
        DatabaseUnavailableError: another session has locked the tables.
        psycopg.Error: the catalog cannot be read, or the connection is lost.
    """
    driver = connection.driver
    set_limits(driver)
    try:
        inspection = inspect_database(connection)
    except psycopg.errors.LockNotAvailable:
        raise DatabaseUnavailableError(
            "another session has locked the tables, for example to alter them: try again when it has finished"
        ) from None
    findings = [finding for check in CATALOG_CHECKS for finding in check(inspection)]
    for name, check in QUERY_CHECKS.items():
        result = in_savepoint(driver, lambda check=check: list(check(inspection, driver)))  # type: ignore[misc]
        findings += [_unknown(name, result)] if isinstance(result, psycopg.Error) else result
    return Diagnosis(
        kind=inspection.kind,
        traits=inspection.traits,
        server_version=inspection.server.version,
        findings=sorted(findings, key=lambda finding: finding.level == WARNING),
    )


def _unknown(name: str, error: psycopg.Error) -> Finding:
    reason = mask_addresses(error.diag.message_primary or type(error).__name__)
    return warning(
        "unknown",
        f"Could not check {name}: {reason}.",
        "Run it again when the database is less busy, or as a role with more privileges.",
    )

"""A look at a database: what it is, and everything that would go wrong with lapse on it. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa

from lapse.addresses import mask_addresses
from lapse.adoption import require_postgresql
from lapse.adoption.checks import (
    clock,
    columns,
    constraints,
    duplicates,
    exposed,
    in_the_way,
    indexes,
    kind,
    policies,
    rights,
    routines,
    rows,
    settings,
    statuses,
    triggers,
    vacuum,
)
from lapse.adoption.findings import NOTE, TROUBLE, Finding, note
from lapse.adoption.looks import BEGIN, look, set_limits
from lapse.adoption.subject import Kind, Subject, read_subject
from lapse.errors import DatabaseUnavailableError
from lapse.store import Database
from lapse.store.connection import Connection, Statements

CHECKS: Sequence[Callable[[Subject], Iterator[Finding]]] = (
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
"""By what the catalog says."""
LOOKS: dict[str, Callable[[Subject, psycopg.Connection[Any]], Iterator[Finding]]] = {
    "what stands in adoption's way": in_the_way.check_way,
    "rights": rights.check_rights,
    "rights to adopt": rights.check_rights_to_adopt,
    "rights to the sequence": rights.check_sequence,
    "row level security": policies.check_policies,
    "forced row level security": policies.check_forced_security,
    "whom the tables are open to": exposed.check_exposed,
    "statuses that the table takes": statuses.check_statuses,
    "lapse's functions": routines.check_functions,
    "duplicates": duplicates.check_duplicates,
    "rows": rows.check_rows,
    "the clock": clock.check_clock,
    "autovacuum": vacuum.check_autovacuum,
    "dead rows": vacuum.check_dead_rows,
    "what holds vacuum back": vacuum.check_vacuum_is_free,
}
"""Each is a look of its own: one that fails, or takes too long, is said to be unknown, and the others go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a look at a database found."""

    kind: Kind
    traits: list[str]
    server_version: str
    product: str = "PostgreSQL"
    findings: list[Finding] = field(default_factory=list)
    """Troubles first."""

    @property
    def is_healthy(self) -> bool:
        """Tell whether there is no trouble."""
        return all(finding.level != TROUBLE for finding in self.findings)


def examine(database: Database) -> Diagnosis:
    """Look at the database, in one transaction that only reads and in which no statement takes long.

    Raises:
        InvalidInputError: it is SQLite.
        DatabaseError: it cannot be reached, or its catalog cannot be read.
    """
    require_postgresql(database)
    statements = Statements(database.engine.dialect)

    def work(connection: sa.Connection) -> Diagnosis:
        driver = connection.connection.driver_connection
        return Connection(driver, statements).transaction(BEGIN, examine_within)

    # Not by `autocommit`, whose own look at the table waits for any lock.
    return database.inspect(work, retry=False)


def examine_within(connection: Connection) -> Diagnosis:
    """Look at the database inside a transaction that has begun, and in which nothing is written; as `examine`."""
    driver = connection.driver
    set_limits(driver)
    try:
        subject = read_subject(connection)
    except psycopg.errors.LockNotAvailable:
        raise DatabaseUnavailableError(
            "another session has locked the tables, to alter them, say: try again when it is done"
        ) from None
    findings = [finding for check in CHECKS for finding in check(subject)]
    for name, check in LOOKS.items():
        found = look(driver, lambda check=check: list(check(subject, driver)))  # type: ignore[misc]
        findings += [_unknown(name, found)] if isinstance(found, psycopg.Error) else found
    return Diagnosis(
        kind=subject.kind,
        traits=subject.traits,
        server_version=subject.server.version,
        findings=sorted(findings, key=lambda finding: finding.level == NOTE),
    )


def _unknown(name: str, error: psycopg.Error) -> Finding:
    reason = mask_addresses(error.diag.message_primary or type(error).__name__)
    return note(
        "unknown",
        f"Not known: {name}. The database said: {reason}.",
        "Run it again when the database is less busy, or as a role with more rights.",
    )

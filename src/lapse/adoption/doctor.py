"""A look at a database: what it is, and everything that would go wrong with lapse on it. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg

from lapse.addresses import mask_addresses
from lapse.adoption import (
    checks_clock,
    checks_columns,
    checks_duplicates,
    checks_indexes,
    checks_kind,
    checks_policies,
    checks_rights,
    checks_rows,
    checks_statuses,
    checks_triggers,
    checks_vacuum,
    require_postgresql,
)
from lapse.adoption.findings import NOTE, TROUBLE, Finding, note
from lapse.adoption.looks import BEGIN, look, set_limits
from lapse.adoption.subject import Kind, Subject, read_subject
from lapse.store import Database
from lapse.store.connection import Connection

Check = Callable[[Subject, psycopg.Connection[Any]], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "the kind of database": checks_kind.check_kind,
    "the schema's version": checks_kind.check_version,
    "the server": checks_kind.check_server,
    "rights": checks_rights.check_rights,
    "rights to adopt": checks_rights.check_rights_to_adopt,
    "rights to the sequence": checks_rights.check_sequence,
    "row level security": checks_policies.check_policies,
    "forced row level security": checks_policies.check_forced_security,
    "columns": checks_columns.check_columns,
    "primary keys": checks_columns.check_primary_keys,
    "statuses that the table takes": checks_statuses.check_statuses,
    "lapse's triggers": checks_triggers.check_own_triggers,
    "triggers that touch updated_at": checks_triggers.check_activity_triggers,
    "indexes": checks_indexes.check_indexes,
    "invalid indexes": checks_indexes.check_valid_indexes,
    "duplicates": checks_duplicates.check_duplicates,
    "rows": checks_rows.check_rows,
    "the clock": checks_clock.check_clock,
    "autovacuum": checks_vacuum.check_autovacuum,
    "dead rows": checks_vacuum.check_dead_rows,
    "what holds vacuum back": checks_vacuum.check_vacuum_is_free,
    "columns that lapse cannot fill": checks_columns.check_fillable,
    "indexes over what messages write": checks_indexes.check_cheap_messages,
}
"""Each is a look of its own: one that fails, or takes too long, is said to be unknown, and the others go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a look at a database found."""

    kind: Kind
    traits: list[str]
    server_version: str
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
    return database.autocommit(lambda connection: connection.transaction(BEGIN, examine_within), retry=False)


def examine_within(connection: Connection) -> Diagnosis:
    """Look at the database inside a transaction that has begun, and in which nothing is written; as `examine`."""
    driver = connection.driver
    set_limits(driver)
    subject = read_subject(connection)
    findings: list[Finding] = []
    for name, check in CHECKS.items():
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

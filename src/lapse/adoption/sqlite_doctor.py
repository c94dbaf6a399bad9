"""A look at a SQLite file, as `doctor` looks at a database of PostgreSQL. Nothing is written, and no file is made."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from lapse.addresses import mask_addresses
from lapse.adoption.checks import sqlite_file, sqlite_rows, sqlite_schema
from lapse.adoption.doctor import Diagnosis
from lapse.adoption.findings import NOTE, Finding, note
from lapse.adoption.subject import Kind
from lapse.errors import DatabaseError
from lapse.store import Database
from lapse.store.driver_errors import translate
from lapse.store.sqlite_reading import opened

LOOK_SECONDS = 5.0
"""Each look takes so long at most."""
_STEPS = 10_000
"""Of SQLite's own: about a millisecond."""

Check = Callable[[sqlite_schema.File], Iterator[Finding]]
CHECKS: Mapping[str, Check] = {
    "whether the file is whole": sqlite_file.check_integrity,
    "its journal": sqlite_file.check_journal,
    "its schema": sqlite_schema.check_schema,
    "its indexes": sqlite_schema.check_indexes,
    "its triggers": sqlite_schema.check_triggers,
    "duplicates": sqlite_rows.check_duplicates,
    "rows": sqlite_rows.check_rows,
}


def examine_file(database: Database) -> Diagnosis:
    """Look at the file. Each look takes some seconds at most, and what takes longer is said to be unknown.

    Raises:
        SqliteBusyError: another program keeps everybody out.
        DatabaseError: the file cannot be read.
    """
    path = database.path
    if path is None:
        raise DatabaseError("the database is no file")
    findings = [*sqlite_file.check_place(path)]
    if findings:
        kind = Kind.HIDDEN if findings[0].code == "missing-right" else Kind.EMPTY
        return _diagnosis(Kind.OTHER if path.is_dir() else kind, (), findings)
    findings = [*sqlite_file.check_writable(path), *sqlite_file.check_file_system(path)]
    traits = ["read-only"] if any(finding.code == "read-only" for finding in findings) else []
    try:
        with opened(database) as driver:
            file = sqlite_schema.read_file(driver, path)
            for name, check in CHECKS.items():
                found = _bounded(file, name, lambda check=check: list(check(file)))  # type: ignore[misc]
                is_known = any(finding.code == sqlite_file.CORRUPT for finding in findings)
                findings += [finding for finding in found if finding.code != sqlite_file.CORRUPT or not is_known]
    except (sqlite3.DatabaseError, DatabaseError) as error:
        damage = sqlite_file.unreadable(path, error)
        if damage is None:
            raise (translate(error) if isinstance(error, sqlite3.Error) else error) from None
        return _diagnosis(Kind.OTHER, traits, [*findings, damage])
    return _diagnosis(file.kind, [*traits, *file.traits], findings)


def _diagnosis(kind: Kind, traits: Sequence[str], findings: list[Finding]) -> Diagnosis:
    return Diagnosis(
        kind=kind,
        traits=list(traits),
        server_version=sqlite3.sqlite_version,
        product="SQLite",
        findings=sorted(findings, key=lambda finding: finding.level == NOTE),
    )


def _bounded(file: sqlite_schema.File, name: str, work: Callable[[], list[Finding]]) -> list[Finding]:
    driver, end = file.driver, time.monotonic() + LOOK_SECONDS
    driver.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
    try:
        return work()
    except sqlite3.DatabaseError as error:
        if (damage := sqlite_file.unreadable(file.path, error)) is not None:
            return [damage]
        reason = "it takes too long" if error.sqlite_errorname == "SQLITE_INTERRUPT" else mask_addresses(str(error))
        return [
            note("unknown", f"Not known: {name}. The reason: {reason}.", "Run it again when the file is less busy.")
        ]
    finally:
        driver.set_progress_handler(None, 0)

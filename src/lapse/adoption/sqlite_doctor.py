"""`lapse doctor` on SQLite: what a file is, and every problem that lapse would have with it. It only reads."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from lapse.addresses import mask_addresses
from lapse.adoption.checks import sqlite_file, sqlite_rows, sqlite_schema
from lapse.adoption.doctor import Diagnosis
from lapse.adoption.findings import WARNING, Finding, warning
from lapse.adoption.inspection import Kind
from lapse.errors import DatabaseError
from lapse.store import Database
from lapse.store.driver_errors import translate
from lapse.store.sqlite_reading import opened

CHECK_SECONDS = 5.0
"""The time limit of each check."""
_STEPS = 10_000
"""Virtual machine instructions between two checks of the time: about a millisecond."""

Check = Callable[[sqlite_schema.File], Iterator[Finding]]
CHECKS: Mapping[str, Check] = {
    "the integrity of the file": sqlite_file.check_integrity,
    "its journal": sqlite_file.check_journal,
    "its schema": sqlite_schema.check_schema,
    "its indexes": sqlite_schema.check_indexes,
    "its triggers": sqlite_schema.check_triggers,
    "duplicates": sqlite_rows.check_duplicates,
    "rows": sqlite_rows.check_rows,
}


def examine_file(database: Database) -> Diagnosis:
    """Examine the file. A check that exceeds `CHECK_SECONDS` is reported as `unknown`.

    Raises:
        SqliteBusyError: another program has locked the file exclusively.
        DatabaseError: the file cannot be read, or the database is in memory.
    """
    path = database.path
    if path is None:
        raise DatabaseError("the database is not a file")
    findings = [*sqlite_file.check_place(path)]
    if findings:
        kind = Kind.HIDDEN if findings[0].code == "missing-privilege" else Kind.EMPTY
        return _diagnosis(Kind.OTHER if path.is_dir() else kind, (), findings)
    findings = [*sqlite_file.check_writable(path), *sqlite_file.check_file_system(path)]
    traits = ["read-only"] if any(finding.code == "read-only" for finding in findings) else []
    try:
        with opened(database) as driver:
            file = sqlite_schema.read_file(driver, path)
            for name, check in CHECKS.items():
                results = _with_time_limit(file, name, lambda check=check: list(check(file)))  # type: ignore[misc]
                is_known = any(finding.code == sqlite_file.CORRUPT for finding in findings)
                findings += [finding for finding in results if finding.code != sqlite_file.CORRUPT or not is_known]
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
        findings=sorted(findings, key=lambda finding: finding.level == WARNING),
    )


def _with_time_limit(file: sqlite_schema.File, name: str, work: Callable[[], list[Finding]]) -> list[Finding]:
    driver, end = file.driver, time.monotonic() + CHECK_SECONDS
    driver.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
    try:
        return work()
    except sqlite3.DatabaseError as error:
        if (damage := sqlite_file.unreadable(file.path, error)) is not None:
            return [damage]
        reason = (
            "it exceeds the time limit" if error.sqlite_errorname == "SQLITE_INTERRUPT" else mask_addresses(str(error))
        )
        return [warning("unknown", f"Could not check {name}: {reason}.", "Run it again when the file is less busy.")]
    finally:
        driver.set_progress_handler(None, 0)

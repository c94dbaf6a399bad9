"""`lapse doctor`."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import typer

from lapse.cli.databases import open_database
from lapse.cli.options import AsJson, DatabaseUrl

if TYPE_CHECKING:
    from lapse.adoption.doctor import Diagnosis
    from lapse.adoption.findings import Finding
    from lapse.store import Database

_WIDTH = 79
_KINDS = {
    "own": "lapse's own tables",
    "adoptable": "an application's table, not adopted",
    "adopting": "an application's table, its adoption unfinished",
    "adopted": "an application's table, adopted",
    "empty": "no table of conversations",
    "hidden": "a table of conversations, or a file, that this role may not see",
    "other": "a table of that name that lapse cannot adopt, or no database",
}


def doctor(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Say what a database is, what is wrong with it for lapse, and what to do. Reads only.

    Exits with 0 when nothing is wrong, with 1 when something is.
    """
    database, _ = open_database(database_url)
    try:
        found = _examine(database)
    finally:
        database.close()
    typer.echo(_as_json(database.safe_url, found) if as_json else _as_text(database.safe_url, found))
    if not found.is_healthy:
        raise typer.Exit(1)


def _examine(database: Database) -> Diagnosis:
    if database.dialect == "sqlite":
        from lapse.adoption.sqlite_doctor import examine_file

        return examine_file(database)
    from lapse.adoption.doctor import examine

    return examine(database)


def _as_json(url: str, found: Diagnosis) -> str:
    return json.dumps(
        {
            "database": url,
            "kind": found.kind,
            "traits": found.traits,
            "server_version": found.server_version,
            "findings": [asdict(finding) for finding in found.findings],
            "healthy": found.is_healthy,
        }
    )


def _as_text(url: str, found: Diagnosis) -> str:
    head = [("database", url), ("kind", _KINDS[found.kind]), ("server", f"{found.product} {found.server_version}")]
    if found.traits:
        head.append(("traits", ", ".join(found.traits)))
    lines = [f"{name + ':':<10} {value}" for name, value in head]
    for finding in found.findings:
        lines += ["", *_finding(finding)]
    return "\n".join([*lines, "", _summary(found)])


def _finding(finding: Finding) -> list[str]:
    # SQL stays SQL when it is broken between words; a word is never broken.
    wrap = partial(textwrap.wrap, width=_WIDTH, break_long_words=False, break_on_hyphens=False)
    return [
        f"{finding.level}: {finding.code}",
        *wrap(finding.what, initial_indent="  ", subsequent_indent="  "),
        *wrap(finding.do, initial_indent="  -> ", subsequent_indent="     "),
    ]


def _summary(found: Diagnosis) -> str:
    troubles = sum(finding.level == "trouble" for finding in found.findings)
    notes = len(found.findings) - troubles
    counts = [f"{n} {name}{'s' if n > 1 else ''}" for n, name in ((troubles, "trouble"), (notes, "note")) if n]
    return f"{'healthy' if found.is_healthy else 'not healthy'}{': ' if counts else ''}{', '.join(counts)}"

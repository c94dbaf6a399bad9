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
from lapse.cli.output import counted

if TYPE_CHECKING:
    from lapse.adoption.doctor import Diagnosis
    from lapse.adoption.findings import Finding
    from lapse.store import Database

_WIDTH = 79
_KINDS = {
    "own": "lapse's own tables",
    "adoptable": "an application's table, not adopted",
    "adopting": "an application's table, its adoption incomplete",
    "adopted": "an application's table, adopted",
    "empty": "no table of conversations",
    "hidden": "a table of conversations, or a file, that this role or user cannot read",
    "other": "a table of that name that lapse cannot adopt, or not a database",
}


def doctor(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Diagnose a database: what it is, which problems lapse has with it, and how to correct them. Read-only.

    Exits with 1 if there is an error, and with 0 if there are only warnings or none.
    """
    with open_database(database_url) as (database, _):
        diagnosis = _examine(database)
    typer.echo(_as_json(database.safe_url, diagnosis) if as_json else _as_text(database.safe_url, diagnosis))
    if not diagnosis.is_healthy:
        raise typer.Exit(1)


def _examine(database: Database) -> Diagnosis:
    if database.dialect == "sqlite":
        from lapse.adoption.sqlite_doctor import examine_file

        return examine_file(database)
    from lapse.adoption.doctor import examine

    return examine(database)


def _as_json(url: str, diagnosis: Diagnosis) -> str:
    values = {"database": url, **asdict(diagnosis), "healthy": diagnosis.is_healthy}
    del values["product"]
    return json.dumps(values)


def _as_text(url: str, diagnosis: Diagnosis) -> str:
    head = [
        ("database", url),
        ("kind", _KINDS[diagnosis.kind]),
        ("server", f"{diagnosis.product} {diagnosis.server_version}"),
    ]
    if diagnosis.traits:
        head.append(("traits", ", ".join(diagnosis.traits)))
    lines = [f"{name + ':':<10} {value}" for name, value in head]
    for finding in diagnosis.findings:
        lines += ["", *_finding(finding)]
    return "\n".join([*lines, "", _summary(diagnosis)])


def _finding(finding: Finding) -> list[str]:
    # SQL stays SQL when it is broken between words; a word is never broken.
    wrap = partial(textwrap.wrap, width=_WIDTH, break_long_words=False, break_on_hyphens=False)
    return [
        f"{finding.level}: {finding.code}",
        *wrap(finding.message, initial_indent="  ", subsequent_indent="  "),
        *wrap(finding.hint, initial_indent="  -> ", subsequent_indent="     "),
    ]


def _summary(diagnosis: Diagnosis) -> str:
    levels = [finding.level for finding in diagnosis.findings]
    counts = [counted(levels.count(level), level) for level in ("error", "warning") if level in levels]
    return f"{'healthy' if diagnosis.is_healthy else 'not healthy'}{': ' if counts else ''}{', '.join(counts)}"

"""`lapse preview`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from lapse.cli.databases import open_database
from lapse.cli.options import AsJson, DatabaseUrl, IdleMinutes

if TYPE_CHECKING:
    from lapse.models import Preview

_HEIGHT = 5
"""Lines of the histogram."""


def preview(
    idle_minutes: IdleMinutes = None,
    expiration_minutes: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help="As if every conversation had been opened to expire so many minutes after its start. "
            "[default: the expires_at that each one has]",
        ),
    ] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Count what a worker's first cycle would end, now: by status, owner and age. Reads only.

    It works on lapse's own tables and on an application's, before and after `lapse adopt`. Where one is not adopted,
    duplicates of a pair are counted like all others, though `lapse adopt` will end them.
    """
    from lapse.settings import idle_timeout_seconds
    from lapse.store.preview import preview as read_preview

    database, settings = open_database(
        database_url, idle_timeout_minutes=idle_minutes, expiration_minutes=expiration_minutes
    )
    idle_timeout = timedelta(seconds=idle_timeout_seconds(settings.idle_timeout_minutes))
    expiration = None if expiration_minutes is None else settings.expiration
    try:
        found = read_preview(database, idle_timeout, expiration)
    finally:
        database.close()
    if as_json:
        typer.echo(json.dumps({"database": database.safe_url, **asdict(found)}, default=_iso))
    else:
        shown = preview_text(found, is_unicode=is_unicode(sys.stdout))
        typer.echo(f"{database.safe_url}\n{shown}\n{_note(found)}nothing was changed")


def _note(found: Preview) -> str:
    if not (found.is_before_adoption and found.conversations):
        return ""
    return "not adopted yet: `lapse adopt` ends duplicates first, which are counted here\n"


def is_unicode(stream: TextIO) -> bool:
    """Tell whether a stream takes more than ASCII."""
    return (stream.encoding or "").lower().startswith("utf")


def preview_text(found: Preview, *, is_unicode: bool) -> str:
    """Return a preview for people, in lines; it holds no address of anybody."""
    expiry = (
        "" if found.expiration_minutes is None else f", expired {found.expiration_minutes:g} minutes after its start"
    )
    lines = [
        f"at {found.now:%Y-%m-%d %H:%M:%S} UTC a first cycle would end {found.conversations:,} "
        f"conversation{'' if found.conversations == 1 else 's'}",
        f"(idle after {found.idle_minutes:g} minutes{expiry})",
    ]
    if found.oldest is None or found.newest is None:
        return "\n".join(lines)
    arrow = "→" if is_unicode else "->"
    width = len(f"{found.conversations:,}")

    def part(title: str, rows: Iterable[tuple[int, str]]) -> list[str]:
        return ["", title, *(f"  {number:>{width},}  {what}" for number, what in rows)]

    owners = [(number, owner) for owner, number in found.by_owner]
    if more := found.owners - len(owners):
        rest = found.conversations - sum(number for number, _ in owners)
        owners.append((rest, f"of {more:,} other{'' if more == 1 else 's'}"))
    lines += part("by status", ((number, f"{before} {arrow} {after}") for before, after, number in found.by_status))
    lines += part("by owner", owners)
    lines += part("past the deadline by", ((number, age) for age, number in found.by_age.items()))
    lines += ["", f"oldest deadline  {_iso(found.oldest)}", f"newest deadline  {_iso(found.newest)}", ""]
    return "\n".join([*lines, _picture(found, is_unicode=is_unicode)])


def _picture(found: Preview, *, is_unicode: bool) -> str:
    from lapse.replay.chart import draw_columns

    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (found.histogram_begin, found.histogram_end))
    if found.oldest is not None and found.oldest < found.histogram_begin:
        first += " and before"
    return draw_columns("deadlines", found.histogram, (first, last), height=_HEIGHT, is_unicode=is_unicode)


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")

"""`lapse preview`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from lapse.cli.databases import open_database
from lapse.cli.options import AsJson, DatabaseUrl, IdleMinutes, option
from lapse.cli.output import counted, is_unicode, iso

if TYPE_CHECKING:
    from lapse.models import Preview

_HISTOGRAM_HEIGHT = 5
"""Lines."""


def preview(
    idle_minutes: IdleMinutes = None,
    expiration_minutes: Annotated[
        float | None,
        option(
            "N",
            "Preview as if every conversation expired this many minutes after its start.",
            default="the expires_at that each one has",
        ),
    ] = None,
    as_json: AsJson = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Count the conversations that a worker's first cycle would end now, by status, owner and age. Reads only.

    Works on lapse's own tables and on an application's, before and after `lapse adopt`. In a table that is not adopted
    yet, the count includes duplicates of a pair, which `lapse adopt` ends.
    """
    from lapse.settings import idle_timeout_seconds
    from lapse.store.preview import preview as read_preview

    options = {"idle_timeout_minutes": idle_minutes, "expiration_minutes": expiration_minutes}
    with open_database(database_url, **options) as (database, settings):
        idle_timeout = timedelta(seconds=idle_timeout_seconds(settings.idle_timeout_minutes))
        expiration = None if expiration_minutes is None else settings.expiration
        result = read_preview(database, idle_timeout, expiration)
    if as_json:
        typer.echo(json.dumps({"database": database.safe_url, **asdict(result)}, default=iso))
    else:
        lines = [database.safe_url, preview_text(result, is_unicode=is_unicode(sys.stdout))]
        if result.is_before_adoption and result.conversations:
            lines.append("not adopted yet: `lapse adopt` ends duplicates first, which are counted here")
        typer.echo("\n".join([*lines, "nothing was changed"]))


def preview_text(result: Preview, *, is_unicode: bool) -> str:
    """Return a preview as text, without addresses."""
    expiry = (
        "" if result.expiration_minutes is None else f", expired {result.expiration_minutes:g} minutes after its start"
    )
    lines = [
        f"at {result.now:%Y-%m-%d %H:%M:%S} UTC a first cycle would end "
        f"{counted(result.conversations, 'conversation')}",
        f"(idle after {result.idle_minutes:g} minutes{expiry})",
    ]
    if result.oldest is None or result.newest is None:
        return "\n".join(lines)
    arrow = "→" if is_unicode else "->"
    width = len(f"{result.conversations:,}")

    def section(title: str, rows: Iterable[tuple[int, str]]) -> list[str]:
        return ["", title, *(f"  {count:>{width},}  {label}" for count, label in rows)]

    owners = [(number, owner) for owner, number in result.by_owner]
    if more := result.owners - len(owners):
        rest = result.conversations - sum(number for number, _ in owners)
        owners.append((rest, f"of {counted(more, 'other')}"))
    lines += section("by status", ((number, f"{before} {arrow} {after}") for before, after, number in result.by_status))
    lines += section("by owner", owners)
    lines += section("past the deadline by", ((number, age) for age, number in result.by_age.items()))
    lines += ["", f"oldest deadline  {iso(result.oldest)}", f"newest deadline  {iso(result.newest)}", ""]
    return "\n".join([*lines, _histogram(result, is_unicode=is_unicode)])


def _histogram(result: Preview, *, is_unicode: bool) -> str:
    from lapse.replay.chart import draw_columns

    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (result.histogram_begin, result.histogram_end))
    if result.oldest is not None and result.oldest < result.histogram_begin:
        first += " and before"
    return draw_columns("deadlines", result.histogram, (first, last), height=_HISTOGRAM_HEIGHT, is_unicode=is_unicode)

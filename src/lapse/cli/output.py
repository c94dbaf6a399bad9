"""What several commands print in the same form."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from datetime import datetime

    from rich.progress import Progress, ProgressColumn


def iso(moment: datetime) -> str:
    """Return a time in UTC in ISO 8601, with `Z`."""
    return moment.isoformat().replace("+00:00", "Z")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 event`, `1,000 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_unicode(stream: TextIO) -> bool:
    """Return whether a stream can encode more than ASCII."""
    return (stream.encoding or "").lower().startswith("utf")


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Return a progress bar for standard error, which disappears when it ends."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True)

"""What several commands print in the same form."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rich.progress import Progress, ProgressColumn


def iso(moment: datetime) -> str:
    """Return a time in UTC in ISO 8601, with `Z`."""
    return moment.isoformat().replace("+00:00", "Z")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 event`, `1,000 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Return names as one reads them: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def is_unicode(stream: TextIO) -> bool:
    """Return whether a stream can encode more than ASCII."""
    return (stream.encoding or "").lower().startswith("utf")


@contextmanager
def progress_bar(*columns: ProgressColumn) -> Iterator[Progress]:
    """Yield a progress bar on standard error; it is shown on a terminal only, and disappears at the end."""
    from rich.console import Console
    from rich.progress import Progress

    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    with progress if sys.stderr.isatty() else nullcontext():
        yield progress

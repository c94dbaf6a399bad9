"""The progress of long steps: of adoptions and of migrations."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lapse.cli.streams import tell

if TYPE_CHECKING:
    from rich.progress import Progress

    from lapse.adoption.plan import Step


class StepProgress:
    """Reports progress on standard error: a line for each completed step, and on a terminal a progress bar."""

    def __init__(self, bar: Progress, min_seconds: float = 0.0) -> None:
        """Report on this bar; steps that took no longer than so many seconds get no line."""
        self._bar = bar
        self._min_seconds = min_seconds
        self._last_message = ""

    @contextmanager
    def step(self, step: Step | str) -> Iterator[None]:
        """Show that a step, or what has this title, is being done."""
        title = step if isinstance(step, str) else step.title
        begin = time.monotonic()
        self._task = self._bar.add_task(title, total=None)
        try:
            yield
            seconds = time.monotonic() - begin
            if seconds >= self._min_seconds:
                self._print(f"{seconds:7.2f} s  {title}")
        finally:
            self._bar.remove_task(self._task)

    def advance(self, done: int, total: int) -> None:
        """Show how much of the step is done."""
        self._bar.update(self._task, completed=done, total=total)

    def message(self, line: str) -> None:
        """Print a line, unless it is the last one again."""
        if line != self._last_message:
            self._last_message = line
            self._print(line)

    def _print(self, line: str) -> None:
        if sys.stderr.isatty():
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            tell(line)

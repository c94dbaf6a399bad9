"""Who is told how far a migration is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class MigrationProgress(Protocol):
    """Receives the progress of a migration's online steps."""

    def step(self, title: str) -> AbstractContextManager[None]:
        """Return a context manager that is entered when a step begins, and left when it ends."""

    def advance(self, done: int, total: int) -> None:
        """Report how much of the current step is done, in pages of 8 KiB."""

    def message(self, line: str) -> None:
        """Report an event, such as what is waited for."""


class Silence:
    """Nobody is told."""

    def step(self, title: str) -> AbstractContextManager[None]:
        """Report nothing."""
        return nullcontext()

    def advance(self, done: int, total: int) -> None:
        """Report nothing."""

    def message(self, line: str) -> None:
        """Report nothing."""

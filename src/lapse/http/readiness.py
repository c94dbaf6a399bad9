"""Readiness: whether the database lets the worker do its work now, checked within a time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from lapse.errors import LapseError

LIMIT_SECONDS = 2.0
"""How long a probe waits for the database."""


class Answer(NamedTuple):
    """Whether the database is ready, and one line with the reason."""

    is_ready: bool
    reason: str


class Readiness:
    """Runs one check at a time, in a thread of its own, which may hang as long as the database does."""

    def __init__(self, check: Callable[[], None], limit_seconds: float = LIMIT_SECONDS) -> None:
        """`check` raises a `LapseError` when the database is not ready."""
        self._check = check
        self._limit_seconds = limit_seconds
        self._lock = threading.Lock()
        self._check_run: _Check | None = None

    def ask(self, asked_at: float | None = None) -> Answer:
        """Return the result of the check that is running, or else of a new one.

        A check that has exceeded the limit is not waited for; the answer is then that the database is not ready.

        Args:
            asked_at: `time.monotonic()` at the arrival of the probe; a check that ended since then is recent enough.
                None: now.
        """
        with self._lock:
            run = self._check_run
            if run is None or run.is_older_than(time.monotonic() if asked_at is None else asked_at):
                run = _Check(self._check)
                run.start()
                self._check_run = run
        run.join(max(0, run.began_at + self._limit_seconds - time.monotonic()))
        return run.answer or Answer(False, f"the database has not answered within {self._limit_seconds:g} seconds")


class _Check(threading.Thread):
    """One check of the database; `answer` is None until it ends."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__(name="lapse-readiness", daemon=True)
        self._check = check
        self.began_at = time.monotonic()
        self.ended_at: float | None = None
        self.answer: Answer | None = None

    def is_older_than(self, moment: float) -> bool:
        """Return whether it ended before this time, or never will: threads do not survive a fork."""
        return self.ended_at < moment if self.ended_at is not None else not self.is_alive()

    def run(self) -> None:
        try:
            self._check()
        except LapseError as error:
            answer = Answer(False, str(error))
        except Exception as error:
            answer = Answer(False, f"internal error: {type(error).__name__}")
        else:
            answer = Answer(True, "the database answers and has the right schema")
        self.answer, self.ended_at = answer, time.monotonic()

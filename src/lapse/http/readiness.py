"""Readiness: whether the database lets the worker do its work now, checked within a time limit."""

from __future__ import annotations

import threading
import time

from lapse.errors import DatabaseUnavailableError, LapseError
from lapse.store import Database, check_ready

LIMIT_SECONDS = 2.0
"""How long a probe waits for the database."""


class Readiness:
    """Runs one check at a time, in a thread of its own, which may hang as long as the database does."""

    def __init__(self, database: Database) -> None:
        """Check this database."""
        self._database = database
        self._lock = threading.Lock()
        self._latest: _Check | None = None

    def problem(self, asked_at: float | None = None) -> str | None:
        """Return why the database is not ready, in one line; None: it is ready.

        The answer is that of the check that is running, or of the latest one if it ended after `asked_at` (a time of
        `time.monotonic()`; None: now), or else of a new one. A check is not waited for longer than the limit.
        """
        with self._lock:
            run = self._latest
            if run is None or run.is_older_than(time.monotonic() if asked_at is None else asked_at):
                run = self._latest = _Check(self._database)
                run.start()
        run.join(max(0, run.began_at + LIMIT_SECONDS - time.monotonic()))
        if run.ended_at is None:
            return f"the database has not answered within {LIMIT_SECONDS:g} seconds"
        return run.problem


class _Check(threading.Thread):
    """One check of the database; `ended_at` is None until it ends."""

    def __init__(self, database: Database) -> None:
        super().__init__(name="lapse-readiness", daemon=True)
        self._database = database
        self.began_at = time.monotonic()
        self.ended_at: float | None = None
        self.problem: str | None = None

    def is_older_than(self, moment: float) -> bool:
        """Return whether it ended before this time, or never will: threads do not survive a fork."""
        return self.ended_at < moment if self.ended_at is not None else not self.is_alive()

    def run(self) -> None:
        try:
            try:
                check_ready(self._database)
            except DatabaseUnavailableError:
                # A pooler, say, may have closed its connection since the last probe: try once more with a new one.
                check_ready(self._database)
        except LapseError as error:
            self.problem = str(error)
        except Exception as error:
            self.problem = f"internal error: {type(error).__name__}"
        self.ended_at = time.monotonic()

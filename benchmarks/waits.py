"""What sessions wait for, by looking at them often."""

from __future__ import annotations

import threading
from collections import Counter

import psycopg

LOOK_EVERY_SECONDS = 0.02
LOG_EVENTS = ("WALSync", "WALWrite", "WALInitSync", "WALInitWrite", "WALInsert")
_LOOK = """
    SELECT coalesce(wait_event, 'none, it works') FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND starts_with(query, %s)
"""


class WaitSampler:
    """Counts, while it is entered, what the active sessions whose statement begins like this were waiting for."""

    def __init__(self, url: str, statement: str) -> None:
        """Look at the sessions of this database."""
        self.counts: Counter[str] = Counter()
        self._url = url
        self._statement = statement
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> WaitSampler:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()

    @property
    def share_of_the_log(self) -> float:
        """Return in which share of the looks at a session it was waiting for PostgreSQL's log."""
        return sum(self.counts[event] for event in LOG_EVENTS) / max(self.counts.total(), 1)

    def _look(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._over.wait(LOOK_EVERY_SECONDS):
                self.counts.update(event for (event,) in connection.execute(_LOOK, [self._statement]))

"""Readiness: is the database reachable, and its schema the right one? An answer comes in limited time in any case."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from lapse.errors import LapseError

LIMIT_SECONDS = 2.0
"""How long a probe waits for the database."""


class Answer(NamedTuple):
    """Whether it is so, and one line that says why."""

    is_yes: bool
    reason: str


class Readiness:
    """Asks one question at a time, in a thread of its own, which may hang for as long as the database likes."""

    def __init__(self, check: Callable[[], None], limit_seconds: float = LIMIT_SECONDS) -> None:
        """`check` raises a `LapseError` when the database is not ready."""
        self._check = check
        self._limit_seconds = limit_seconds
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._latest = Answer(False, "the database has not been asked yet")

    def ask(self) -> Answer:
        """Return the database's answer.

        While another caller waits for it, the latest one is returned at once: so probes never hold more than one of
        the server's threads.
        """
        with self._lock:
            if self._asking is not None and self._asking.is_alive():
                return self._latest
            self._asking = threading.Thread(target=self._ask, name="lapse-readiness", daemon=True)
            self._asking.start()
            asking = self._asking
        asking.join(self._limit_seconds)
        if asking.is_alive():
            self._latest = Answer(False, f"the database has not answered within {self._limit_seconds:g} seconds")
        return self._latest

    def _ask(self) -> None:
        try:
            self._check()
        except LapseError as error:
            self._latest = Answer(False, str(error))
        except Exception as error:
            self._latest = Answer(False, f"internal error: {type(error).__name__}")
        else:
            self._latest = Answer(True, "the database answers and has the right schema")

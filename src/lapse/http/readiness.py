"""Readiness: could the worker do its work at the database now? An answer comes in limited time in any case."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from lapse.errors import LapseError

LIMIT_SECONDS = 2.0
"""How long the database may take to answer; a probe waits for no longer."""


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
        self._question: _Question | None = None

    def ask(self, asked_at: float | None = None) -> Answer:
        """Return the database's answer to the question that is under way, or to a new one.

        Once that has taken too long nobody waits for it any more, until it is answered.

        Args:
            asked_at: `time.monotonic()` when the probe came, where it could not be asked at once: an answer that was
                given since is no old one.
        """
        with self._lock:
            question = self._question
            if question is None or question.is_over_before(time.monotonic() if asked_at is None else asked_at):
                question = _Question(self._check)
                question.start()
                self._question = question
        question.join(max(0, question.began_at + self._limit_seconds - time.monotonic()))
        return question.answer or Answer(False, f"the database has not answered within {self._limit_seconds:g} seconds")


class _Question(threading.Thread):
    """A question to the database, and its answer once there is one."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__(name="lapse-readiness", daemon=True)
        self._check = check
        self.began_at = time.monotonic()
        self.ended_at: float | None = None
        self.answer: Answer | None = None

    def is_over_before(self, moment: float) -> bool:
        """Tell whether its answer is older than this moment, or will never come: a fork leaves threads behind."""
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

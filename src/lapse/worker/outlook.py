"""What a worker asks of its database between its tasks: is the schema right, and what is due next?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from lapse.errors import DatabaseError, DatabaseUnavailableError
from lapse.logs import EventLogger
from lapse.models import AnyId, NextDeadlines
from lapse.service import ConversationService
from lapse.shutdown import Interrupted, StopEvent
from lapse.store import ensure_schema
from lapse.store.limits import ended_by
from lapse.worker.backlog import BacklogGate
from lapse.worker.observer import Observer
from lapse.worker.pauses import Backoff
from lapse.worker.progress import Progress
from lapse.worker.runner import FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS
from lapse.worker.tasks import EXPIRED_CONVERSATIONS, IDLE_CONVERSATIONS

T = TypeVar("T")

COUNT_ACTIVE_EVERY_SECONDS = 15.0
"""Prometheus asks no more often, as a rule."""

log = EventLogger(__name__)


class Outlook:
    """The looks of one worker. A database that is away is waited for; a stop signal ends every look."""

    def __init__(
        self,
        service: ConversationService,
        gate: BacklogGate,
        stop_event: StopEvent,
        progress: Progress,
        observer: Observer,
        wait: Callable[[float], object],
        on_failure: Callable[[str], None],
    ) -> None:
        """Prepare it; `gate` lets the first cycle begin, `wait` waits, `on_failure` is called with each error."""
        self._service = service
        self._gate = gate
        self._stop_event = stop_event
        self._progress = progress
        self._observer = observer
        self._wait = wait
        self._on_failure = on_failure
        self._outage = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self._count_active_at = 0.0
        self.has_schema = False
        """Whether the schema is known to be right; False makes the next look find out."""

    @property
    def seconds_to_rest(self) -> float:
        """Return what is left of the pause after a failed look."""
        return self._outage.seconds_left

    def wait_for_schema(self, *, is_patient: bool) -> bool:
        """Return True once the database answers and has the right schema, False when a stop came first.

        Raises:
            SchemaError: it has another schema.
            BacklogError: more is due than a first cycle may end without a word.
            DatabaseError: it refused, and `is_patient` is False: to wait would hide a wrong setting.
        """
        while not self._stop_event.is_set():
            if self.has_schema:
                return True
            try:
                # A server that says nothing would hold up a stop for as long as a connection may take.
                self._ask_database(self.check_schema)
            except Interrupted:
                return False
            except DatabaseError as error:
                if not (isinstance(error, DatabaseUnavailableError) or is_patient):
                    raise
                self._wait(self._note("waiting for the database", error))
            else:
                self.has_schema = True
        return False

    def check_schema(self) -> None:
        """Let a database pass with the right schema, and without a backlog that nobody has allowed.

        Raises:
            SchemaError: it has another schema.
            BacklogError: more is due than a first cycle may end without a word.
            DatabaseError: it cannot be reached, or refused.
        """
        ensure_schema(self._service.database, retry=False)
        self._gate.pass_through()

    def next_deadlines(self, set_aside: Mapping[str, Sequence[AnyId]]) -> NextDeadlines | None:
        """Return what is due next, not counting what each task has set aside; None when the database doesn't say."""
        try:
            deadlines = self._ask_database(lambda: self._ask_twice(set_aside))
        except Interrupted:
            return None
        except DatabaseUnavailableError as error:
            self.has_schema = False
            self._wait(self._note("waiting for the database", error))
            return None
        except DatabaseError as error:
            self._note("next deadlines unknown", error)
            return None
        self._outage.succeeded()
        self._observer.note_deadlines(deadlines)
        return deadlines

    def count_active(self) -> None:
        """Let the observer know about how many conversations are active, if it wants to and was not told just now."""
        if not self._observer.wants_active or time.monotonic() < self._count_active_at:
            return
        self._count_active_at = time.monotonic() + COUNT_ACTIVE_EVERY_SECONDS
        # Where this fails, the next look at the deadlines says why.
        with suppress(Interrupted, DatabaseError):
            self._observer.set_active(self._ask_database(self._service.conversation_repo.count_active))

    def _ask_database(self, question: Callable[[], T]) -> T:
        with self._stop_event.interruptible(), self._progress.asking_database():
            return ended_by(self._stop_event.is_set, question)

    def _ask_twice(self, set_aside: Mapping[str, Sequence[AnyId]]) -> NextDeadlines:
        try:
            return self._ask(set_aside)
        except DatabaseUnavailableError as error:
            # A server or a pooler that closes idle connections is not away.
            log.info("connection lost", error=str(error))
            return self._ask(set_aside)

    def _ask(self, set_aside: Mapping[str, Sequence[AnyId]]) -> NextDeadlines:
        return self._service.conversation_repo.next_deadlines(
            set_aside[IDLE_CONVERSATIONS], set_aside[EXPIRED_CONVERSATIONS], retry=False
        )

    def _note(self, event: str, error: DatabaseError) -> float:
        """Log and count a failed look; returns the pause before the next one."""
        seconds = self._outage.failed()
        log.warning(event, error=str(error), retry_in_seconds=round(seconds, 2))
        self._on_failure(str(error))
        return seconds

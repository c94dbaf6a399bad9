"""What a worker asks its database besides its tasks: whether it may begin, and what is due next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from lapse.errors import BacklogError, DatabaseError, DatabaseUnavailableError
from lapse.lifecycle import whole_seconds
from lapse.logs import EventLogger
from lapse.models import AnyId, NextDeadlines
from lapse.service import ConversationService
from lapse.shutdown import Interrupted
from lapse.store import ensure_schema
from lapse.store.limits import ended_by
from lapse.store.operations import due
from lapse.worker.options import WorkerOptions
from lapse.worker.task import WorkerContext

if TYPE_CHECKING:
    from lapse.models import Preview

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

COUNT_ACTIVE_EVERY_SECONDS = 15.0
"""Prometheus rarely scrapes more often."""

log = EventLogger(__name__)


class BacklogGuard:
    """Guards the first cycle on an adopted table, where a backlog of years may be due."""

    def __init__(self, service: ConversationService, options: WorkerOptions) -> None:
        """Prepare the guard of a worker with these options; no query is made yet."""
        self._service, self._options = service, options
        self._has_passed = False
        self.silent_before: datetime | None = None
        """Conversations whose deadline is before this moment end with events that are marked as silent."""

    def check(self) -> None:
        """Check that the worker may begin; once it has passed, without the database.

        Raises:
            BacklogError: more is due than the limit, no worker has ended anything here, and nobody said what to do.
            DatabaseError: the database refused, or cannot be reached.
        """
        if self._has_passed:
            return
        database = self._service.database
        is_adopted = database.shape(retry=False).mapping.is_adopted
        if self._options.expire_silently and is_adopted:
            # Since the first worker, not this one: a restart goes on where that one stopped, and silences nothing else.
            self.silent_before = database.run(due.first_swept_at, retry=False)
            log.info("what was due expires silently", due_before=self.silent_before.isoformat())
        elif self._options.expire_silently:
            log.warning("nothing expires silently", reason="the table was not adopted")
        elif is_adopted and not self._options.accept_backlog and not database.run(due.has_swept_before, retry=False):
            self._check_backlog()
        self._has_passed = True

    def _check_backlog(self) -> None:
        limit, idle_timeout = self._options.backlog_limit, self._service.idle_timeout()
        seconds = whole_seconds(idle_timeout)
        if (counted := self._service.database.run(due.count_due_up_to, seconds, limit, retry=False)) <= limit:
            return
        preview = self._preview()
        number = f"more than {limit:,}" if preview is None else f"{preview.conversations:,}"
        log.error("backlog not accepted", due=counted if preview is None else preview.conversations, limit=limit)
        raise BacklogError(
            f"{number} conversations of the adopted table are due, and no worker has ended any there yet: none was "
            f"ended, for the limit is {limit:,}. Go on with --accept-backlog (all end, with an event each; "
            "--max-rate N: slowly) or --expire-silently (the same, with events marked as silent)",
            preview,
        )

    def _preview(self) -> Preview | None:
        from lapse.store.preview import preview

        try:
            return preview(self._service.database, self._service.idle_timeout())
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:  # it counts all that is due, which may take longer than the role may
            log.warning("no preview", error=str(error))
            return None


class DeadlinePoller:
    """Makes one worker's queries besides its tasks, without retries; a stop signal ends each of them."""

    def __init__(self, service: ConversationService, guard: BacklogGuard, context: WorkerContext) -> None:
        """Prepare it; no query is made yet."""
        self._service, self._guard, self._context = service, guard, context
        self._count_active_at = 0.0
        self.is_ready = False
        """Whether the schema is known to be right, and the guard has passed."""

    def check_ready(self) -> None:
        """Check that the database has the right schema, and no backlog that nobody has allowed.

        Raises:
            SchemaError: it has another schema.
            BacklogError: more is due than the limit for a first cycle.
            DatabaseError: it cannot be reached, or refused.
            Interrupted: a stop signal came.
        """
        # A server that says nothing would hold up a stop for as long as a connection may take.
        self._ask(self._check_ready)
        self.is_ready = True

    def _check_ready(self) -> None:
        ensure_schema(self._service.database, retry=False)
        self._guard.check()

    def poll(self, exclude: Mapping[str, Sequence[AnyId]]) -> NextDeadlines:
        """Return what is due next, not counting what is excluded from each task.

        Raises:
            DatabaseUnavailableError: it cannot be reached: it is not ready any more.
            DatabaseError: it refused.
            Interrupted: a stop signal came.
        """
        try:
            deadlines = self._ask(self._poll_twice, exclude)
        except DatabaseUnavailableError:
            self.is_ready = False
            raise
        self._context.metrics.record_deadlines(deadlines)
        return deadlines

    def count_active(self) -> None:
        """Record about how many conversations are active, if a scrape has read the previous number."""
        if not self._context.metrics.wants_active or time.monotonic() < self._count_active_at:
            return
        self._count_active_at = time.monotonic() + COUNT_ACTIVE_EVERY_SECONDS
        # Where this fails, the next poll says why.
        with suppress(Interrupted, DatabaseError):
            self._context.metrics.set_active(self._ask(self._service.conversation_repo.count_active))

    def _ask(self, question: Callable[[*Ts], T], *arguments: *Ts) -> T:
        stop_event = self._context.stop_event
        with stop_event.interruptible(), self._context.heartbeat.asking_database():
            return ended_by(stop_event.is_set).run(question, *arguments)

    def _poll_twice(self, exclude: Mapping[str, Sequence[AnyId]]) -> NextDeadlines:
        repository, idle_timeout = self._service.conversation_repo, self._service.idle_timeout()
        try:
            return repository.next_deadlines(idle_timeout, exclude, retry=False)
        except DatabaseUnavailableError as error:
            # A server or a pooler that closes idle connections is not away.
            log.info("connection lost", error=str(error))
            return repository.next_deadlines(idle_timeout, exclude, retry=False)

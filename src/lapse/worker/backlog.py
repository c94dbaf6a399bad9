"""The gate before a first cycle on an adopted table, where the deadlines of years may have passed unseen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lapse.errors import BacklogError, DatabaseError, DatabaseUnavailableError
from lapse.logs import EventLogger
from lapse.service import ConversationService
from lapse.store import backlog
from lapse.store.database import Database
from lapse.worker.options import WorkerOptions

if TYPE_CHECKING:
    from lapse.models import Preview

log = EventLogger(__name__)


class BacklogGate:
    """Lets a worker begin once it is clear what becomes of the backlog; a table of lapse's own has none."""

    def __init__(self, service: ConversationService, options: WorkerOptions) -> None:
        """Prepare it for a worker with these options; nothing is asked yet."""
        self._service, self._options = service, options
        self._is_open = False

    def pass_through(self) -> None:
        """Return when the worker may begin; asked once, and after that without the database.

        Raises:
            BacklogError: more is due than the limit, no worker has ended anything here, and nobody said what to do.
            DatabaseError: the database refused, or cannot be reached.
        """
        if self._is_open:
            return
        database = self._service.database
        is_adopted = database.layout().is_adopted
        if self._options.expire_silently and is_adopted:
            # Since the first worker, not this one: a restart goes on where that one stopped, and silences nothing else.
            before = self._service.conversation_repo.sweeper.silent_before = backlog.beginning(database)
            log.info("what was due expires silently", due_before=before.isoformat())
        elif self._options.expire_silently:
            log.warning("nothing expires silently", reason="the table was not adopted")
        elif is_adopted and not self._options.accept_backlog and not backlog.has_begun(database):
            self._require_little(database)
        self._is_open = True

    def _require_little(self, database: Database) -> None:
        limit = self._options.backlog_limit
        due = backlog.count_due(database, self._service.idle_timeout(), limit)
        if due <= limit:
            return
        preview = self._preview(database)
        number = f"more than {limit:,}" if preview is None else f"{preview.conversations:,}"
        log.error("backlog not accepted", due=due if preview is None else preview.conversations, limit=limit)
        raise BacklogError(
            f"{number} conversations of the adopted table are due, and no worker has ended any there yet: none was "
            f"ended, for the limit is {limit:,}. Go on with --accept-backlog (all end, with an event each; "
            "--max-rate N: slowly) or --expire-silently (the same, with events marked as silent)",
            preview,
        )

    def _preview(self, database: Database) -> Preview | None:
        from lapse.store.preview import preview

        try:
            return preview(database, self._service.idle_timeout())
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:  # it counts all that is due, which may take longer than the role may
            log.warning("no preview", error=str(error))
            return None

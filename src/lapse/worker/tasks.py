"""The tasks: each is a name and the sweeps that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from lapse.models import AnyId, NextDeadlines, SweepResult
from lapse.service import ConversationService
from lapse.store.statements import BEGINNING_OF_TIME

IDLE_CONVERSATIONS = "idle_conversations"
EXPIRED_CONVERSATIONS = "expired_conversations"


class Sweep(Protocol):
    """One bounded batch of one kind of work, in one transaction: `lapse.store.sweeps.BoundSweep`."""

    def sweep(self, limit: int, after: datetime = ..., without: Sequence[AnyId] = ...) -> SweepResult:
        """Sweep up to `limit` conversations, from the deadline `after` on, but not those of `without`."""

    def sweep_only(self, ids: Sequence[AnyId]) -> SweepResult:
        """Sweep those of these conversations that are due."""

    def look(self, limit: int, after: datetime = ..., without: Sequence[AnyId] = ...) -> list[AnyId]:
        """Return what `sweep` would claim; nothing is changed."""


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of work: sweeps that are drained one after the other, and when they have something to do."""

    name: str
    sweeps: Sequence[Sweep]
    due_at: Callable[[NextDeadlines], datetime | None]
    log_fields: dict[str, Any] = field(default_factory=dict)


def build_tasks(service: ConversationService) -> dict[str, Task]:
    """Return the tasks by name; expiry comes first where both deadlines have passed, in whatever order they run."""
    sweeper, idle_timeout = service.conversation_repo.sweeper, service.idle_timeout()

    def idle_due_at(deadlines: NextDeadlines) -> datetime | None:
        # Armed with a longer timeout than today's: it may be idle already, whatever its idle check says.
        longest = deadlines.longest_idle_timeout_seconds or 0
        return BEGINNING_OF_TIME if longest > idle_timeout.total_seconds() else deadlines.idle

    tasks = (
        Task(
            IDLE_CONVERSATIONS,
            (sweeper.idle(idle_timeout), sweeper.armed_longer(idle_timeout)),
            idle_due_at,
            {"idle_minutes": service.settings.idle_timeout_minutes},
        ),
        Task(EXPIRED_CONVERSATIONS, (sweeper.expired(),), lambda deadlines: deadlines.expired),
    )
    return {task.name: task for task in tasks}

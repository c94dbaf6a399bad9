"""The tasks: each is a name and one bounded sweep; draining what is due is the same for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lapse.models import SweepResult
from lapse.service import ConversationService
from lapse.store.sweep_statements import BEGINNING_OF_TIME

IDLE_CONVERSATIONS = "idle_conversations"
EXPIRED_CONVERSATIONS = "expired_conversations"


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of work: `sweep(limit, after)` does one bounded batch of it, in one transaction."""

    name: str
    sweep: Callable[[int, datetime], SweepResult]
    log_fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """What one run of a task did: one or more batches."""

    task: str
    ended: int = 0
    rearmed: int = 0
    batches: int = 0
    seconds: float = 0.0
    is_drained: bool = True
    """False when the time budget ran out, or a stop came, before everything due was done."""
    error: Exception | None = None


def build_tasks(service: ConversationService) -> dict[str, Task]:
    """Return the tasks by name; expiry comes first where both deadlines have passed, in whatever order they run."""
    idle_minutes = service.settings.idle_timeout_minutes
    tasks = (
        Task(
            IDLE_CONVERSATIONS,
            lambda limit, after: service.sweep_idle(None, limit, after),
            {"idle_minutes": idle_minutes},
        ),
        Task(EXPIRED_CONVERSATIONS, service.sweep_expired),
    )
    return {task.name: task for task in tasks}


def drain(task: Task, batch_size: int, is_over: Callable[[], bool]) -> TaskRun:
    """Sweep batch after batch until nothing due is left or `is_over()` says so between two batches.

    Raises:
        LapseError: a batch failed; the batches before it stay done.
    """
    ended = rearmed = batches = 0
    after = BEGINNING_OF_TIME
    while True:
        result = task.sweep(batch_size, after)
        ended, rearmed, batches = ended + result.ended, rearmed + result.rearmed, batches + 1
        is_drained = result.claimed < batch_size
        if is_drained or is_over():
            return TaskRun(task=task.name, ended=ended, rearmed=rearmed, batches=batches, is_drained=is_drained)
        # From the last deadline on: what was ended before it still stands in the index, as dead entries.
        after = result.last_deadline or after

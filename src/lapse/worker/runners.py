"""The tasks of a worker, each with what runs it, and what observes them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lapse.service import ConversationService
from lapse.worker.batch_size import BatchSize
from lapse.worker.drain import Drain
from lapse.worker.observed import ObservedSweep
from lapse.worker.observer import Observer, make_observer
from lapse.worker.options import WorkerOptions
from lapse.worker.pauses import RateLimit
from lapse.worker.progress import Progress
from lapse.worker.runner import TaskRunner
from lapse.worker.tasks import Task, build_tasks


def make_runners(
    service: ConversationService, options: WorkerOptions, progress: Progress, wait: Callable[[float], object]
) -> tuple[dict[str, TaskRunner], Observer]:
    """Return what runs each task, by its name, and the observer; `wait` waits so many seconds."""
    tasks = build_tasks(service)
    observer = make_observer(list(tasks), service.database.dialect) if options.enable_metrics else Observer()
    rate_limit = RateLimit(options.max_rate)

    def runner(task: Task) -> TaskRunner:
        sweeps = [ObservedSweep(sweep, task.name, progress, observer.count_batch) for sweep in task.sweeps]
        drain = Drain(replace(task, sweeps=sweeps), BatchSize(options.batch_size), rate_limit, wait)
        return TaskRunner(drain, observer.count_run)

    return {name: runner(task) for name, task in tasks.items()}, observer

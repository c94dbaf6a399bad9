"""The worker: tasks in cycles, a loop that stops at once, and what it says about itself."""

from lapse.worker.task import Task, TaskMetrics, TaskResult
from lapse.worker.tasks import sweep_tasks
from lapse.worker.worker import BackgroundWorker

__all__ = ["BackgroundWorker", "Task", "TaskMetrics", "TaskResult", "sweep_tasks"]

"""The worker: runs tasks in cycles, and reports its health and its metrics."""

from lapse.worker.task import Task, TaskMetrics, TaskResult
from lapse.worker.tasks import sweep_tasks
from lapse.worker.worker import BackgroundWorker

__all__ = ["BackgroundWorker", "Task", "TaskMetrics", "TaskResult", "sweep_tasks"]

"""The worker: tasks in cycles, a loop that stops at once, and what it says about itself."""

from lapse.worker.drain import TaskRun
from lapse.worker.metrics import TaskMetrics
from lapse.worker.tasks import Task, build_tasks
from lapse.worker.worker import BackgroundWorker

__all__ = ["BackgroundWorker", "Task", "TaskMetrics", "TaskRun", "build_tasks"]

"""What a worker tells whoever watches it, as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lapse.models import NextDeadlines, SweepResult
from lapse.worker.drain import TaskRun

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Observer:
    """Nobody watches: what a worker without metrics has."""

    registry: CollectorRegistry | None = None
    """The Prometheus metrics, if there are any."""
    wants_active: bool = False
    """Whether somebody would look at the number of active conversations, were it counted now."""

    def count_batch(self, task: str, result: SweepResult) -> None:
        """Be told of a batch of a task."""

    def count_run(self, run: TaskRun, set_aside: int) -> None:
        """Be told of a run of a task, and how many conversations are set aside after it."""

    def count_failure(self, task: str) -> None:
        """Be told that a task could not run, since the database did not say what is due."""

    def note_deadlines(self, deadlines: NextDeadlines) -> None:
        """Be told what is due next."""

    def set_active(self, conversations: int) -> None:
        """Be told how many conversations are active."""


def make_observer(tasks: list[str], database: str) -> Observer:
    """Return one that keeps Prometheus metrics of these tasks on this kind of database."""
    from lapse import __version__
    from lapse.store.schema_version import head_version
    from lapse.worker.prometheus import PrometheusMetrics

    return PrometheusMetrics(tasks, version=__version__, schema_version=head_version(), database=database)

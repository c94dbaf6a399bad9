"""BackgroundWorker: cycles of tasks until it is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from lapse.addresses import shown
from lapse.errors import DatabaseError, InvalidInputError, SchemaError
from lapse.logs import EventLogger
from lapse.models import NextDeadlines
from lapse.service import ConversationService
from lapse.settings import Settings, load_settings
from lapse.shutdown import STOP_GRACE_SECONDS, Interrupted, StopEvent
from lapse.store.limits import ended_by
from lapse.worker.backlog import BacklogGate
from lapse.worker.drain import TaskRun
from lapse.worker.options import WorkerOptions, check_parts
from lapse.worker.outlook import Outlook
from lapse.worker.progress import Progress
from lapse.worker.runners import make_runners

METRICS_EVERY_CYCLES = 10

log = EventLogger(__name__)


class BackgroundWorker:
    """Ends idle and expired conversations. Any number of workers may run on one database."""

    def __init__(
        self,
        interval_seconds: float | None = None,
        batch_size: int | None = None,
        enable_metrics: bool | None = None,
        *,
        min_wait_seconds: float | None = None,
        max_rate: float | None = None,
        backlog_limit: int | None = None,
        accept_backlog: bool = False,
        expire_silently: bool = False,
        service: ConversationService | None = None,
        settings: Settings | None = None,
        stop_event: StopEvent | None = None,
        report: Callable[[str], None] = lambda status: None,
    ) -> None:
        """Prepare a worker; `run()` starts it.

        Args:
            interval_seconds: the longest wait between two cycles, and the longest that one run of a task may take;
                default is the setting (60).
            batch_size: conversations per transaction; default is the setting (None: what fits into 0.1 seconds).
            enable_metrics: for Prometheus (`observer.registry`), and a line every ten cycles; default is the setting.
            min_wait_seconds: the shortest time between the beginnings of two cycles; default is the setting (1).
            max_rate: conversations a second, over all tasks; default is the setting (None: no limit).
            backlog_limit: what may be due at the first cycle on an adopted table; default is the setting (10,000).
            accept_backlog: what is due there ends, however much it is.
            expire_silently: it ends with events whose data say `silent`.
            service: the conversations to look after; default is made from the settings.
            settings: default is the service's, else the environment and `.env`.
            stop_event: what stops it besides `stop()`; default is one of its own.
            report: called with one line that says how it is: when it begins or waits for the database, and after each
                cycle.

        Raises:
            SettingsError: a setting is not usable.
            InvalidInputError: an argument is not usable.
        """
        check_parts(service, settings, stop_event, report)
        self.settings = settings or (service.settings if service else load_settings())
        self.conversation_service = service or ConversationService(settings=self.settings)
        self.options = WorkerOptions.of(
            self.settings,
            interval_seconds=interval_seconds,
            batch_size=batch_size,
            enable_metrics=enable_metrics,
            min_wait_seconds=min_wait_seconds,
            max_rate=max_rate,
            backlog_limit=backlog_limit,
            accept_backlog=accept_backlog,
            expire_silently=expire_silently,
        )
        self.interval_seconds, self.batch_size = self.options.interval_seconds, self.options.batch_size
        self.enable_metrics = self.options.enable_metrics
        self.stop_event = stop_event or StopEvent()
        self.progress = Progress()
        self.tasks, self.observer = make_runners(self.conversation_service, self.options, self.progress, self._wait)
        self.task_config: dict[str, dict[str, Any]] = {
            name: {"enabled": True, "interval_multiplier": 1} for name in self.tasks
        }
        self.metrics = {name: task.metrics for name, task in self.tasks.items()}
        self.started_at: datetime | None = None
        self.running, self.cycle_count, self._report = False, 0, report
        self._outlook = self._make_outlook()

    def run(self) -> None:
        """Run cycles until `stop()`; a database that is away is waited for. Closes the connections at the end.

        Raises:
            SchemaError: the database has no schema that this lapse can use.
            BacklogError: more is due on an adopted table than a first cycle may end without a word; nothing was ended.
        """
        self.started_at, self.running = datetime.now(UTC), True
        log.info(
            "worker started",
            database=self.conversation_service.database.safe_url,
            **self.options.as_log_fields(),
            idle_minutes=self.settings.idle_timeout_minutes,
            expiration_minutes=self.settings.expiration_minutes,
        )
        try:
            while self._outlook.wait_for_schema(is_patient=self.cycle_count > 0):
                if self.cycle_count == 0:
                    self._report_status()  # a first cycle with a backlog takes long
                began = time.monotonic()
                deadlines = self._next_deadlines()
                if deadlines is None and not self._outlook.has_schema:
                    continue  # the database is away
                runs = self.run_cycle(deadlines)
                seconds = self._seconds_to_wait(runs, deadlines, began)
                self._outlook.count_active()
                self._report_status()
                self._wait(seconds)
        finally:
            self.running = False
            self.conversation_service.close()
            log.info("worker stopped", cycles=self.cycle_count)

    def run_once(self) -> bool:
        """Run one cycle, draining what is due; tell whether all of it succeeded. Closes the connections.

        Raises:
            DatabaseError: the database cannot be reached.
            SchemaError: the database has no schema that this lapse can use.
            BacklogError: as `run`.
        """
        self.started_at, self.running = datetime.now(UTC), True
        try:
            with self.stop_event.interruptible():
                ended_by(self.stop_event.is_set, self._outlook.check_schema)
            for task in self.tasks.values():
                task.wake()
            return all(run.error is None and not run.refused for run in self.run_cycle())
        except Interrupted:
            return True
        finally:
            self.running = False
            self.conversation_service.close()

    def stop(self) -> None:
        """Ask the worker to stop: the batch in hand is finished, every wait ends at once. Safe from any thread."""
        self.stop_event.set()

    def run_cycle(self, deadlines: NextDeadlines | None = None) -> list[TaskRun]:
        """Run every task whose turn it is; one that fails does not stop the others.

        Args:
            deadlines: what the database says is next: a task that has nothing due succeeds without a sweep. Without
                it every task sweeps.

        Raises:
            InvalidInputError: `task_config` has a task or a multiplier that there cannot be.
        """
        self.cycle_count += 1
        runs = [
            self.run_task(name, deadlines)
            for name in self.task_config
            if self._is_in_cycle(name, self.cycle_count)
            and not self.tasks[name].is_resting
            and not self.stop_event.is_set()
        ]
        if self.enable_metrics and self.cycle_count % METRICS_EVERY_CYCLES == 0:
            log.info(
                "metrics",
                cycle=self.cycle_count,
                tasks={name: m.as_dict() for name, m in self.metrics.items()},
            )
        return runs

    def run_task(self, name: str, deadlines: NextDeadlines | None = None) -> TaskRun:
        """Run one task now, at most for the interval's time. A failure is logged, counted and returned, not raised.

        Raises:
            InvalidInputError: there is no task of that name.
        """
        self._check_task(name)
        begin, run = time.monotonic(), TaskRun(task=name, is_drained=False)

        def is_over() -> bool:
            return self.stop_event.is_set() or time.monotonic() - begin >= self.interval_seconds

        try:
            with self.stop_event.interruptible(STOP_GRACE_SECONDS):
                run = ended_by(self.stop_event.is_set, self.tasks[name].run, self.cycle_count, deadlines, is_over)
        except Interrupted:
            log.warning("batch given up for the stop", task=name, cycle=self.cycle_count)
        if isinstance(run.error, (DatabaseError, SchemaError)):
            self._outlook.has_schema = False  # it may be another database by now, or the schema of a newer lapse
        return run

    def get_health_status(self) -> dict[str, Any]:
        """Return the worker's health, JSON-ready: status, running, uptime_seconds, cycle_count, tasks.

        The status is `healthy`, `degraded` (a task's latest run failed), `stopped` or `not_started`.
        """
        now = datetime.now(UTC)
        return {
            "status": self._health(),
            "running": self.running,
            "started_at": self.started_at.isoformat() if self.started_at else None,
            "uptime_seconds": (now - self.started_at).total_seconds() if self.started_at else 0.0,
            "cycle_count": self.cycle_count,
            "tasks": {name: metrics.as_dict() for name, metrics in self.metrics.items()},
        }

    # --- inside -------------------------------------------------------------------------------------------------

    def _health(self) -> str:
        if not self.running:
            return "stopped" if self.started_at else "not_started"
        return "degraded" if any(metrics.last_error for metrics in self.metrics.values()) else "healthy"

    def _check_task(self, name: str) -> None:
        if not isinstance(name, str) or name not in self.tasks:
            raise InvalidInputError(f"there is no task {shown(name)}: use one of {', '.join(self.tasks)}")

    def _is_in_cycle(self, name: str, cycle: int) -> bool:
        self._check_task(name)
        config = self.task_config.get(name, {"enabled": False})
        multiplier = config.get("interval_multiplier", 1)
        if not isinstance(multiplier, int) or multiplier < 1:
            raise InvalidInputError(
                f"interval_multiplier of {name} must be a whole number from 1 on, not {shown(multiplier)}"
            )
        # The first cycle runs them all.
        return bool(config.get("enabled", True)) and (cycle - 1) % multiplier == 0

    def _make_outlook(self) -> Outlook:
        service, failed = self.conversation_service, self._note_failed_look
        gate = BacklogGate(service, self.options)
        return Outlook(service, gate, self.stop_event, self.progress, self.observer, self._wait, failed)

    def _wait(self, seconds: float) -> None:
        self.progress.note("waiting", seconds)
        self.stop_event.wait(seconds)
        self.progress.note("working")

    def _next_deadlines(self) -> NextDeadlines | None:
        return self._outlook.next_deadlines({name: task.drain.set_aside_ids for name, task in self.tasks.items()})

    def _note_failed_look(self, error: str) -> None:
        """Count that the database did not say what is due: the tasks of this cycle have failed."""
        self._report(f"waiting for the database: {error}")
        for name, metrics in self.metrics.items():
            if self._is_in_cycle(name, self.cycle_count + 1):
                metrics.record_failure(error, 0.0)
                self.observer.count_failure(name)

    def _report_status(self) -> None:
        ended = sum(metrics.total_items_processed for metrics in self.metrics.values())
        self._report(f"{self._health()}, cycle {self.cycle_count}, {ended} ended")

    def _seconds_to_wait(self, runs: list[TaskRun], deadlines: NextDeadlines | None, began: float) -> float:
        """Return how long nothing can become due: at most the interval."""
        if any(run.error is None and not run.is_drained for run in runs):
            return 0.0
        if any(run.batches or run.error for run in runs):
            deadlines = self._next_deadlines()  # what was due when the cycle began is done
        # A conversation that opens meanwhile is due no sooner than the shorter of both timeouts from now.
        soonest_new = 60 * min(self.settings.idle_timeout_minutes, self.settings.expiration_minutes)
        known = [
            task.seconds_to_next(deadlines)
            for name, task in self.tasks.items()
            if self._is_in_cycle(name, self.cycle_count + 1)
        ]
        least = max(self.options.min_wait_seconds - (time.monotonic() - began), self._outlook.seconds_to_rest)
        return float(max(least, min(self.interval_seconds, soonest_new, *known)))

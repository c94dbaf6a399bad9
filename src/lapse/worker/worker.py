"""BackgroundWorker: cycles of tasks until it is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from lapse.addresses import shown
from lapse.errors import DatabaseError, DatabaseUnavailableError, InvalidInputError, SchemaError
from lapse.logs import EventLogger
from lapse.models import NextDeadlines
from lapse.service import ConversationService
from lapse.settings import Settings, load_settings
from lapse.shutdown import Interrupted, StopEvent
from lapse.store.operations.receipts import RECEIPTS
from lapse.store.operations.sweeps import TASKS
from lapse.worker.backoff import Backoff
from lapse.worker.options import WorkerOptions, check_parts
from lapse.worker.poller import BacklogGuard, DeadlinePoller
from lapse.worker.task import BACKOFF_SECONDS, DEFAULT_TASK_CONFIG, TaskResult, TaskRunner, WorkerContext, is_in_turn
from lapse.worker.tasks import ReceiptsTask, make_metrics, sweep_tasks
from lapse.worker.throttle import RateLimit

METRICS_EVERY_CYCLES = 10

log = EventLogger(__name__)


class BackgroundWorker:
    """Ends idle and expired conversations, and deletes old receipts. Any number of workers may run on one database."""

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
            enable_metrics: for Prometheus (`instrumentation.registry`), and a line every ten cycles; default is the
                setting.
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
        service = self.conversation_service = service or ConversationService(settings=self.settings)
        self.options = WorkerOptions.from_settings(
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
        metrics = make_metrics(service.database, is_enabled=self.enable_metrics)
        context = WorkerContext(metrics=metrics, stop_event=stop_event or StopEvent())
        self.instrumentation, self.heartbeat, self.stop_event = metrics, context.heartbeat, context.stop_event
        guard = BacklogGuard(service, self.options)
        self.tasks = self._make_runners(guard, context)
        self.task_config = {name: dict(DEFAULT_TASK_CONFIG) for name in self.tasks}
        self.metrics = {name: runner.metrics for name, runner in self.tasks.items()}
        self.started_at: datetime | None = None
        self.running, self.cycle_count, self._report = False, 0, report
        self._poller = DeadlinePoller(service, guard, context)
        self._outage = Backoff(*BACKOFF_SECONDS)

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
            while self._wait_until_ready():
                if self.cycle_count == 0:
                    self._report_status()  # a first cycle with a backlog takes long
                began = time.monotonic()
                deadlines = self._poll()
                if deadlines is None and not self._poller.is_ready:
                    continue  # the database is away
                results = self.run_cycle(deadlines)
                seconds = self._seconds_to_wait(results, deadlines, began)
                self._poller.count_active()
                self._report_status()
                self.heartbeat.wait(seconds, self.stop_event)
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
            self._poller.check_ready()
            for task in self.tasks.values():
                task.reset_backoff()
            results = self.run_cycle()
            return all(result.error is None and not result.refused for result in results)
        except Interrupted:
            return True
        finally:
            self.running = False
            self.conversation_service.close()

    def stop(self) -> None:
        """Ask the worker to stop: the batch in hand is finished, every wait ends at once. Safe from any thread."""
        self.stop_event.set()

    def run_cycle(self, deadlines: NextDeadlines | None = None) -> list[TaskResult]:
        """Run every task whose turn it is; one that fails does not stop the others.

        Args:
            deadlines: what the database says is next: a task that has nothing due succeeds without a sweep. Without
                it every task sweeps.

        Raises:
            InvalidInputError: `task_config` has a task or a multiplier that there cannot be.
        """
        self.cycle_count += 1
        results = []
        for name in self.task_config:
            if not self._is_in_turn(name, self.cycle_count) or self.tasks[name].is_backing_off:
                continue
            if self.stop_event.is_set():
                break
            results.append(self.tasks[name].run(self.cycle_count, deadlines, self.interval_seconds))
            self._check_result(results[-1])
        if self.enable_metrics and self.cycle_count % METRICS_EVERY_CYCLES == 0:
            tasks = {name: metrics.as_dict() for name, metrics in self.metrics.items()}
            log.info("metrics", cycle=self.cycle_count, tasks=tasks)
        return results

    def run_task(self, name: str, deadlines: NextDeadlines | None = None) -> TaskResult:
        """Run one task now, at most for the interval's time. A failure is logged, counted and returned, not raised.

        Raises:
            InvalidInputError: there is no task of that name.
        """
        self._check_task(name)
        result = self.tasks[name].run(self.cycle_count, deadlines, self.interval_seconds)
        self._check_result(result)
        return result

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

    def _make_runners(self, guard: BacklogGuard, context: WorkerContext) -> dict[str, TaskRunner]:
        limits: dict[str, Any] = {"batch_size": self.batch_size, "rate_limit": RateLimit(self.options.max_rate)}
        tasks = sweep_tasks(self.conversation_service, guard=guard, context=context, **limits)
        tasks[RECEIPTS] = ReceiptsTask(self.conversation_service, context)
        return {name: TaskRunner(task, context) for name, task in tasks.items()}

    def _health(self) -> str:
        if not self.running:
            return "stopped" if self.started_at else "not_started"
        return "degraded" if any(metrics.last_error for metrics in self.metrics.values()) else "healthy"

    def _check_task(self, name: str) -> None:
        if not isinstance(name, str) or name not in self.tasks:
            raise InvalidInputError(f"there is no task {shown(name)}: use one of {', '.join(self.tasks)}")

    def _is_in_turn(self, name: str, cycle: int) -> bool:
        self._check_task(name)
        return is_in_turn(name, self.task_config.get(name, {"enabled": False}), cycle)

    def _check_result(self, result: TaskResult) -> None:
        if isinstance(result.error, (DatabaseError, SchemaError)):
            self._poller.is_ready = False  # it may be another database by now, or the schema of a newer lapse

    def _wait_until_ready(self) -> bool:
        """Return True once the database answers and has the right schema, False when a stop came first.

        Raises:
            SchemaError: it has another schema.
            BacklogError: more is due than a first cycle may end without a word.
            DatabaseError: it refused, before any cycle: to wait would hide a wrong setting.
        """
        while not self.stop_event.is_set():
            if self._poller.is_ready:
                return True
            try:
                self._poller.check_ready()
            except Interrupted:
                return False
            except DatabaseError as error:
                if not (isinstance(error, DatabaseUnavailableError) or self.cycle_count):
                    raise
                self.heartbeat.wait(self._record_failed_poll("waiting for the database", error), self.stop_event)
        return False

    def _poll(self) -> NextDeadlines | None:
        """Return what is due next; None when the database does not say."""
        try:
            deadlines = self._poller.poll({name: runner.task.quarantined_ids for name, runner in self.tasks.items()})
        except Interrupted:
            return None
        except DatabaseUnavailableError as error:
            self.heartbeat.wait(self._record_failed_poll("waiting for the database", error), self.stop_event)
            return None
        except DatabaseError as error:
            self._record_failed_poll("next deadlines unknown", error)
            return None
        self._outage.reset()
        return deadlines

    def _record_failed_poll(self, event: str, error: DatabaseError) -> float:
        """Count that the tasks of this cycle have failed, for want of an answer; return the seconds to pause."""
        seconds = self._outage.record_failure()
        log.warning(event, error=str(error), retry_in_seconds=round(seconds, 2))
        self._report(f"waiting for the database: {error}")
        for name, runner in self.tasks.items():
            if self._is_in_turn(name, self.cycle_count + 1):
                runner.record_failed_poll(str(error))
        return seconds

    def _report_status(self) -> None:
        ended = sum(self.metrics[name].total_items_processed for name in TASKS)
        self._report(f"{self._health()}, cycle {self.cycle_count}, {ended} ended")

    def _seconds_to_wait(self, results: list[TaskResult], deadlines: NextDeadlines | None, began: float) -> float:
        """Return how long nothing can become due: at most the interval."""
        if any(result.error is None and not result.completed for result in results):
            return 0.0
        if any(result.batches or result.error for result in results):
            deadlines = self._poll()  # what was due when the cycle began is done
        # A conversation that opens meanwhile is due no sooner than the shorter of both timeouts from now.
        soonest_new = 60 * min(self.settings.idle_timeout_minutes, self.settings.expiration_minutes)
        in_turn = [runner for name, runner in self.tasks.items() if self._is_in_turn(name, self.cycle_count + 1)]
        known = [runner.seconds_to_next(deadlines) for runner in in_turn]
        least = max(self.options.min_wait_seconds - (time.monotonic() - began), self._outage.remaining)
        return float(max(least, min(self.interval_seconds, soonest_new, *known)))

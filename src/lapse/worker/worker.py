"""BackgroundWorker: cycles of tasks until it is told to stop."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from lapse.arguments import check_limit
from lapse.errors import DatabaseError, DatabaseUnavailableError, InvalidInputError
from lapse.service import ConversationService
from lapse.settings import Settings, load_settings
from lapse.stopping import Interrupted, StopFlag
from lapse.store import ensure_schema
from lapse.worker.metrics import TaskMetrics
from lapse.worker.tasks import (
    EXPIRED_CONVERSATIONS,
    IDLE_CONVERSATIONS,
    TaskRun,
    build_tasks,
    drain,
)

MIN_WAIT_SECONDS = 1.0
"""However many deadlines there are: a busier loop would cost the database more than it gains."""
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 5.0
"""The longest wait for a database that is away: work goes on within 10 seconds of its return."""
METRICS_EVERY_CYCLES = 10

log = structlog.get_logger("lapse")


def pause_seconds(failures: int) -> float:
    """Return how long to wait after so many failures in a row: 0 after none, then longer and longer.

    Jittered, so that a fleet does not come back all at once.
    """
    longest = min(FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 10), MAX_PAUSE_SECONDS) if failures else 0.0
    return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing secret


class BackgroundWorker:
    """Ends idle and expired conversations. Any number of workers may run on one database."""

    def __init__(
        self,
        interval_seconds: float | None = None,
        batch_size: int | None = None,
        enable_metrics: bool | None = None,
        *,
        service: ConversationService | None = None,
        settings: Settings | None = None,
        stop_flag: StopFlag | None = None,
    ) -> None:
        """Prepare a worker; `run()` starts it.

        Args:
            interval_seconds: the longest wait between two cycles; default is the setting (60).
            batch_size: conversations per transaction; default is the setting (100).
            enable_metrics: write a metrics line every ten cycles; default is the setting (True).
            service: the conversations to look after; default is made from the settings.
            settings: default is the service's, else the environment and `.env`.
            stop_flag: what stops it besides `stop()`; default is one of its own.

        Raises:
            SettingsError: a setting is not usable.
            InvalidInputError: an argument is not usable.
        """
        self.settings = settings or (service.settings if service else load_settings())
        self.conversation_service = service or ConversationService(settings=self.settings)
        self.interval_seconds = self.settings.interval_seconds if interval_seconds is None else interval_seconds
        if not 0 < self.interval_seconds <= 24 * 60 * 60:
            raise InvalidInputError(
                f"an interval must be more than 0 and at most 86400 seconds, not {interval_seconds!r}"
            )
        self.batch_size = check_limit(self.settings.batch_size if batch_size is None else batch_size)
        self.enable_metrics = self.settings.enable_metrics if enable_metrics is None else enable_metrics
        self.tasks = build_tasks(self.conversation_service)
        self.task_config: dict[str, dict[str, Any]] = {
            name: {"enabled": True, "interval_multiplier": 1} for name in self.tasks
        }
        self.metrics = {name: TaskMetrics() for name in self.tasks}
        self.started_at: datetime | None = None
        self.running = False
        self.cycle_count = 0
        self.stop_flag = stop_flag or StopFlag()
        self.conversation_service.database.is_stopping = self.stop_flag.is_set

    def run(self) -> None:
        """Run cycles until `stop()`; a database that is away is waited for. Closes the connections at the end.

        Raises:
            SchemaError: the database has no schema that this lapse can use.
        """
        self.started_at, self.running = datetime.now(UTC), True
        log.info(
            "worker started",
            database=self.conversation_service.database.safe_url,
            **self._configuration(),
        )
        failures = 0
        try:
            while self._wait_for_database():
                runs = self.run_cycle()
                if any(isinstance(run.error, DatabaseUnavailableError) for run in runs):
                    # At once after a cut connection; not so where the database answers and cannot write.
                    self.stop_flag.wait(pause_seconds(failures))
                    failures += 1
                    continue
                failures = 0
                self.stop_flag.wait(self._seconds_to_wait(runs))
        finally:
            self.running = False
            self.conversation_service.close()
            log.info("worker stopped", cycles=self.cycle_count)

    def run_once(self) -> bool:
        """Run one cycle, draining what is due; tell whether every task succeeded. Closes the connections.

        Raises:
            DatabaseError: the database cannot be reached.
            SchemaError: the database has no schema that this lapse can use.
        """
        self.started_at, self.running = datetime.now(UTC), True
        try:
            ensure_schema(self.conversation_service.database, retry=False)
            return all(run.error is None for run in self.run_cycle())
        finally:
            self.running = False
            self.conversation_service.close()

    def stop(self) -> None:
        """Ask the worker to stop: the batch in hand is finished, every wait ends at once. Safe from any thread."""
        self.stop_flag.set()

    def run_cycle(self) -> list[TaskRun]:
        """Run every task whose turn it is; one that fails does not stop the others.

        Raises:
            InvalidInputError: `task_config` has a task or a multiplier that there cannot be.
        """
        self.cycle_count += 1
        runs = [
            self.run_task(name)
            for name in self.task_config
            if self._is_in_this_cycle(name) and not self.stop_flag.is_set()
        ]
        if self.enable_metrics and self.cycle_count % METRICS_EVERY_CYCLES == 0:
            log.info(
                "metrics",
                cycle=self.cycle_count,
                tasks={name: m.as_dict() for name, m in self.metrics.items()},
            )
        return runs

    def run_task(self, name: str) -> TaskRun:
        """Run one task now, at most for the interval's time. A failure is logged, counted and returned, not raised.

        Raises:
            InvalidInputError: there is no task of that name.
        """
        if name not in self.tasks:
            raise InvalidInputError(f"there is no task {name!r}: use one of {', '.join(self.tasks)}")
        task, begin = self.tasks[name], time.monotonic()

        def is_over() -> bool:
            return self.stop_flag.is_set() or time.monotonic() - begin >= self.interval_seconds

        fields = {"task": name, "cycle": self.cycle_count, **task.log_fields}
        try:
            run = drain(task, self.batch_size, is_over)
        except Exception as error:
            seconds = time.monotonic() - begin
            self.metrics[name].record_failure(str(error), seconds)
            log.exception("task failed", error=str(error), execution_time_seconds=round(seconds, 3), **fields)
            return TaskRun(task=name, seconds=seconds, is_drained=False, error=error)
        seconds = time.monotonic() - begin
        self.metrics[name].record_success(run.ended, seconds)
        if run.ended:
            log.info(
                "task processed",
                count=run.ended,
                execution_time_seconds=round(seconds, 3),
                **fields,
            )
        return replace(run, seconds=seconds)

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

    def _is_enabled(self, name: str) -> bool:
        return name in self.task_config and bool(self.task_config[name].get("enabled", True))

    def _is_in_this_cycle(self, name: str) -> bool:
        multiplier = self.task_config[name].get("interval_multiplier", 1)
        if not isinstance(multiplier, int) or multiplier < 1:
            raise InvalidInputError(
                f"interval_multiplier of {name} must be a whole number from 1 on, not {multiplier!r}"
            )
        # The first cycle runs them all.
        return self._is_enabled(name) and (self.cycle_count - 1) % multiplier == 0

    def _wait_for_database(self) -> bool:
        """Return True once the database answers, False when a stop came first."""
        failures = 0
        while not self.stop_flag.is_set():
            try:
                # A server that says nothing would hold up a stop for as long as a connection may take.
                with self.stop_flag.interruptible():
                    ensure_schema(self.conversation_service.database, retry=False)
            except Interrupted:
                return False
            except DatabaseError as error:
                if not (isinstance(error, DatabaseUnavailableError) or self.cycle_count):
                    raise  # refused from the start: waiting would hide a wrong setting
                failures += 1
                seconds = pause_seconds(failures)
                log.warning("waiting for the database", error=str(error), retry_in_seconds=round(seconds, 2))
                self.stop_flag.wait(seconds)
            else:
                return True
        return False

    def _seconds_to_wait(self, runs: list[TaskRun]) -> float:
        """Return how long nothing can become due: at most the interval."""
        if any(run.error is None and not run.is_drained for run in runs):
            return 0.0
        try:
            deadlines = self.conversation_service.next_deadlines(retry=False)
        except DatabaseUnavailableError:
            return 0.0
        except DatabaseError as error:
            log.warning("next deadlines unknown", error=str(error))
            return min(self.interval_seconds, MIN_WAIT_SECONDS)
        moments = {IDLE_CONVERSATIONS: deadlines.idle, EXPIRED_CONVERSATIONS: deadlines.expired}
        waits = [
            (moment - deadlines.now).total_seconds()
            for name, moment in moments.items()
            if moment is not None and self._is_enabled(name)
        ]
        # A conversation that opens meanwhile is due no sooner than the shorter of both timeouts from now.
        soonest_new = 60 * min(self.settings.idle_timeout_minutes, self.settings.expiration_minutes)
        return min(self.interval_seconds, max(MIN_WAIT_SECONDS, min([soonest_new, *waits])))

    def _configuration(self) -> dict[str, Any]:
        return {
            "interval_seconds": self.interval_seconds,
            "batch_size": self.batch_size,
            "idle_minutes": self.settings.idle_timeout_minutes,
            "expiration_minutes": self.settings.expiration_minutes,
        }

"""`lapse worker`."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from lapse.cli.databases import configure, naming_url
from lapse.cli.options import DatabaseUrl, option
from lapse.cli.output import is_unicode
from lapse.cli.preview_command import preview_text
from lapse.cli.streams import tell
from lapse.errors import BacklogError, InvalidInputError
from lapse.shutdown import StopEvent, exit_on_signals, ignore_stop_signals, stop_on_signals
from lapse.systemd import Systemd
from lapse.validation import MAX_LIMIT

if TYPE_CHECKING:
    from lapse.worker import BackgroundWorker


def worker(
    database_url: DatabaseUrl = None,
    once: Annotated[bool, typer.Option("--once", help="Run one cycle and exit.")] = False,
    interval: Annotated[
        float | None,
        option(
            "SECONDS",
            "Maximum time between two cycles; an earlier deadline shortens it.",
            "BACKGROUND_TASK_INTERVAL",
            "60",
        ),
    ] = None,
    min_wait: Annotated[
        float | None, option("SECONDS", "Minimum time between two cycles.", "BACKGROUND_TASK_MIN_WAIT", "1")
    ] = None,
    batch_size: Annotated[
        int | None,
        option(
            "N",
            f"Conversations per transaction, 1 to {MAX_LIMIT}.",
            "BACKGROUND_TASK_BATCH_SIZE",
            "adapted to take 0.1 seconds, 10 to 5000",
        ),
    ] = None,
    max_rate: Annotated[
        float | None,
        option(
            "N",
            "Maximum conversations per second, to protect a shared database.",
            "BACKGROUND_TASK_MAX_RATE",
            "no limit",
        ),
    ] = None,
    backlog_limit: Annotated[
        int | None,
        option(
            "N",
            "Adopted tables: if more than this are due at a worker's very first cycle, report them and end none.",
            "BACKGROUND_TASK_BACKLOG_LIMIT",
            "10000",
        ),
    ] = None,
    accept_backlog: Annotated[
        bool, typer.Option("--accept-backlog", help="Adopted tables: end the backlog, whatever its size.")
    ] = False,
    expire_silently: Annotated[
        bool,
        typer.Option(
            "--expire-silently",
            help="Adopted tables: end the backlog; events of deadlines before the first worker are marked `silent`.",
        ),
    ] = False,
    http: Annotated[
        str | None,
        option(
            "HOST:PORT",
            "Serve probes and metrics there: /livez, /readyz, /health, /metrics. Not with --once.",
            "LAPSE_HTTP",
            "no server",
        ),
    ] = None,
    no_metrics: Annotated[
        bool, typer.Option("--no-metrics", help="Disable metrics. [env: BACKGROUND_TASK_ENABLE_METRICS=false]")
    ] = False,
) -> None:
    """End idle and expired conversations on time, until SIGTERM or SIGINT. Any number of workers may run at once.

    Environment: CONVERSATION_IDLE_TIMEOUT_MINUTES (default 30) and CONVERSATION_EXPIRATION_MINUTES (1440) set the
    timeouts, LOG_LEVEL (INFO) sets the log level.
    """
    if once and http is not None:
        raise InvalidInputError("--http does not go with --once: a single cycle is over before anybody asks")
    stop_event = StopEvent()
    # Before the heavy imports, so that a stop signal during startup also exits with 0.
    with exit_on_signals():
        settings = configure(
            sys.stdout,
            database_url=database_url,
            interval_seconds=interval,
            min_wait_seconds=min_wait,
            batch_size=batch_size,
            max_rate=max_rate,
            backlog_limit=backlog_limit,
            http=http,
            enable_metrics=False if no_metrics else None,
        )
        _disable_multiprocess_metrics()
        from lapse.worker import BackgroundWorker

        systemd = Systemd()
        with naming_url(is_option=database_url is not None):
            worker = BackgroundWorker(
                settings=settings,
                stop_event=stop_event,
                accept_backlog=accept_backlog,
                expire_silently=expire_silently,
                report=systemd.report,
            )
        try:
            _run_once(worker, stop_event) if once else _run(worker, stop_event, systemd)
        except BacklogError as error:
            if error.preview is not None:
                tell(preview_text(error.preview, is_unicode=is_unicode(sys.stderr)) + "\n")
            raise
        ignore_stop_signals()


def _disable_multiprocess_metrics() -> None:
    """Keep the Prometheus client out of its multiprocess mode, which the environment of an application may select.

    It would share files with that application, and continue the metrics of an earlier worker with the same process id.
    """
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        os.environ.pop(name, None)


def _run_once(worker: BackgroundWorker, stop_event: StopEvent) -> None:
    from lapse.tracing import exported_traces

    with exported_traces(), stop_on_signals(stop_event):
        if not worker.run_once():
            raise typer.Exit(1)


def _run(worker: BackgroundWorker, stop_event: StopEvent, systemd: Systemd) -> None:
    from lapse.tracing import exported_traces

    with _http_server(worker), exported_traces(), stop_on_signals(stop_event):
        systemd.feed_watchdog(lambda: worker.heartbeat.is_alive)
        try:
            worker.run()
        finally:
            systemd.stopping()


def _http_server(worker: BackgroundWorker) -> AbstractContextManager[object]:
    listen = worker.settings.http
    if listen is None:
        return nullcontext()
    from lapse.http import WorkerApp, serving

    if worker.instrumentation.registry is not None:
        from prometheus_client import disable_created_metrics

        # They are a third of all series, and unused. The switch is global: only for a process of lapse's own.
        disable_created_metrics()  # type: ignore[no-untyped-call]
    return serving(WorkerApp(worker), listen)

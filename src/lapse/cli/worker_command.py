"""`lapse worker`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lapse.cli.options import DatabaseUrl, help_with_variable
from lapse.cli.preview_command import is_unicode, preview_text
from lapse.errors import BacklogError, InvalidInputError
from lapse.stopping import StopFlag, exit_on_signals, ignore_stop_signals, stop_on_signals
from lapse.systemd import Systemd

if TYPE_CHECKING:
    from lapse.settings import Settings
    from lapse.worker import BackgroundWorker


def worker(
    database_url: DatabaseUrl = None,
    once: Annotated[bool, typer.Option("--once", help="Run one cycle and exit.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            show_default=False,
            help=help_with_variable(
                "Longest wait between two cycles; a deadline that comes sooner shortens it.",
                "BACKGROUND_TASK_INTERVAL",
                "60",
            ),
        ),
    ] = None,
    min_wait: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            show_default=False,
            help=help_with_variable("Shortest time between two cycles.", "BACKGROUND_TASK_MIN_WAIT", "1"),
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help=help_with_variable(
                "Conversations per transaction, 1 to 10000.",
                "BACKGROUND_TASK_BATCH_SIZE",
                "what fits into 0.1 seconds, 10 to 5000",
            ),
        ),
    ] = None,
    max_rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help=help_with_variable(
                "Conversations a second at most, to protect a shared database.", "BACKGROUND_TASK_MAX_RATE", "no limit"
            ),
        ),
    ] = None,
    backlog_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help=help_with_variable(
                "Adopted tables: more due than this at a worker's very first cycle, and it ends nothing but says so.",
                "BACKGROUND_TASK_BACKLOG_LIMIT",
                "10000",
            ),
        ),
    ] = None,
    accept_backlog: Annotated[
        bool, typer.Option("--accept-backlog", help="Adopted tables: end it, however much is due.")
    ] = False,
    expire_silently: Annotated[
        bool,
        typer.Option(
            "--expire-silently",
            help="Adopted tables: end it, with events that say `silent` for what was due before a worker first began.",
        ),
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            show_default=False,
            help=help_with_variable(
                "Answer probes and Prometheus there: /livez, /readyz, /health, /metrics. Not with --once.",
                "LAPSE_HTTP",
                "no server",
            ),
        ),
    ] = None,
    no_metrics: Annotated[
        bool,
        typer.Option(
            "--no-metrics",
            help=help_with_variable("Switch metrics off.", "BACKGROUND_TASK_ENABLE_METRICS=false"),
        ),
    ] = False,
) -> None:
    """End idle and expired conversations on time, until SIGTERM or SIGINT. Run as many as you like.

    The timeouts are set by CONVERSATION_IDLE_TIMEOUT_MINUTES (30) and CONVERSATION_EXPIRATION_MINUTES (1440), the
    log by LOG_LEVEL (INFO).
    """
    if once and http is not None:
        raise InvalidInputError("--http does not go with --once: a single cycle is over before anybody asks")
    flag = StopFlag()
    # Before the heavy imports: a stop that comes while the worker starts is a clean stop, too.
    with exit_on_signals():
        settings = _load(
            database_url=database_url,
            interval_seconds=interval,
            min_wait_seconds=min_wait,
            batch_size=batch_size,
            max_rate=max_rate,
            backlog_limit=backlog_limit,
            http=http,
            enable_metrics=False if no_metrics else None,
        )
        run = _run_once if once else _run
        try:
            run(settings, flag, accept_backlog=accept_backlog, expire_silently=expire_silently)
        except BacklogError as error:
            if error.preview is not None:
                typer.echo(preview_text(error.preview, is_unicode=is_unicode(sys.stderr)) + "\n", err=True)
            raise
        ignore_stop_signals()


def _load(**overrides: Any) -> Settings:
    from lapse.logs import configure_logging
    from lapse.settings import load_settings

    settings = load_settings(**overrides)
    configure_logging(settings.log_level, sys.stdout)
    # Meant for an application of several processes with the same environment. Prometheus' client would keep the
    # metrics of this one in files there, and those of an earlier worker with the same process id would live on.
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        os.environ.pop(name, None)
    return settings


def _run_once(settings: Settings, flag: StopFlag, **backlog: Any) -> None:
    from lapse import __version__
    from lapse.tracing import exported_traces
    from lapse.worker import BackgroundWorker

    worker = BackgroundWorker(settings=settings, stop_flag=flag, **backlog)
    with exported_traces(__version__), stop_on_signals(flag):
        if not worker.run_once():
            raise typer.Exit(1)


def _run(settings: Settings, flag: StopFlag, **backlog: Any) -> None:
    from lapse import __version__
    from lapse.tracing import exported_traces
    from lapse.worker import BackgroundWorker

    systemd = Systemd()
    worker = BackgroundWorker(settings=settings, stop_flag=flag, report=systemd.report, **backlog)
    with _http_server(worker, settings.http), exported_traces(__version__), stop_on_signals(flag):
        systemd.feed_watchdog(lambda: worker.progress.is_alive)
        try:
            worker.run()
        finally:
            systemd.stopping()


@contextmanager
def _http_server(worker: BackgroundWorker, listen: str | None) -> Iterator[None]:
    if listen is None:
        yield
        return
    from lapse.http import WorkerApp, serving

    if worker.observer.registry is not None:
        from prometheus_client import disable_created_metrics

        # Half as many series again, that nobody looks at. Of the whole process: not where an application is around.
        disable_created_metrics()  # type: ignore[no-untyped-call]
    with serving(WorkerApp(worker), listen):
        yield

"""`lapse worker`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lapse.cli.options import DatabaseUrl, help_with_variable
from lapse.stopping import StopFlag, exit_on_signals, stop_on_signals

if TYPE_CHECKING:
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
    flag = StopFlag()
    # Before the heavy imports: a stop that comes while the worker starts is a clean stop, too.
    with exit_on_signals():
        background_worker = _prepare(
            flag,
            database_url=database_url,
            interval_seconds=interval,
            min_wait_seconds=min_wait,
            batch_size=batch_size,
            max_rate=max_rate,
            enable_metrics=False if no_metrics else None,
        )
        with stop_on_signals(flag):
            if not once:
                background_worker.run()
            elif not background_worker.run_once():
                raise typer.Exit(1)


def _prepare(flag: StopFlag, **overrides: Any) -> BackgroundWorker:
    from lapse.logs import configure_logging
    from lapse.settings import load_settings
    from lapse.worker import BackgroundWorker

    settings = load_settings(**overrides)
    configure_logging(settings.log_level, sys.stdout)
    return BackgroundWorker(settings=settings, stop_flag=flag)

"""What the worker answers over HTTP: one function per path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from lapse.errors import DatabaseUnavailableError
from lapse.http.readiness import Readiness
from lapse.store import Database, check_schema

if TYPE_CHECKING:
    from lapse.worker import BackgroundWorker

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environment, StartResponse], Iterable[bytes]]
OK, UNAVAILABLE = "200 OK", "503 Service Unavailable"
NOT_FOUND, WRONG_METHOD = "404 Not Found", "405 Method Not Allowed"
TEXT, JSON = "text/plain; charset=utf-8", "application/json"


class WorkerApp:
    """A WSGI application that speaks for one worker. It changes nothing, and reads of a request only its path."""

    def __init__(self, worker: BackgroundWorker) -> None:
        """Speak for this worker, from any thread."""
        self._worker = worker
        self._readiness = Readiness(partial(_check, worker.conversation_service.database))
        self._metrics = self._make_metrics()

    def __call__(self, environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        answer = ROUTES.get(environment["PATH_INFO"])
        if answer is None:
            return _respond(start_response, NOT_FOUND, f"use one of {', '.join(ROUTES)}")
        method = environment["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            return _respond(start_response, WRONG_METHOD, "use GET", headers=[("Allow", "GET, HEAD")])
        body = answer(self, environment, start_response)
        return [] if method == "HEAD" else body

    def livez(self, _environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer whether the loop moves. Never a matter of the database: to start the worker anew mends none."""
        worker, progress = self._worker, self._worker.progress
        if worker.started_at is not None and not worker.running:  # its thread may have died in an application
            return _respond(start_response, UNAVAILABLE, "the loop has ended")
        is_alive, doing = progress.is_alive, progress.described()
        text = f"alive: {doing}" if is_alive else f"the loop stands still: {doing}"
        return _respond(start_response, OK if is_alive else UNAVAILABLE, text)

    def readyz(self, _environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer whether the worker can do its work now."""
        if self._worker.stop_flag.is_set():
            return _respond(start_response, UNAVAILABLE, "stopping")
        answer = self._readiness.ask()
        text = f"ready: {answer.reason}" if answer.is_yes else f"not ready: {answer.reason}"
        return _respond(start_response, OK if answer.is_yes else UNAVAILABLE, text)

    def health(self, _environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer with `get_health_status()`."""
        text = json.dumps(self._worker.get_health_status())
        return _respond(start_response, OK, text, content_type=JSON)

    def metrics(self, environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer with the Prometheus metrics."""
        if self._metrics is None:
            return _respond(start_response, NOT_FOUND, "metrics are switched off (BACKGROUND_TASK_ENABLE_METRICS)")
        try:
            return self._metrics(environment, start_response)
        except (TypeError, ValueError):  # of an `Accept` with a version that is none, before anything was answered
            return self._metrics(environment | {"HTTP_ACCEPT": ""}, start_response)

    def _make_metrics(self) -> WsgiApp | None:
        registry = self._worker.observer.registry
        if registry is None:
            return None
        from prometheus_client import make_wsgi_app

        app: WsgiApp = make_wsgi_app(registry)
        return app


ROUTES: dict[str, Callable[[WorkerApp, Environment, StartResponse], Iterable[bytes]]] = {
    "/livez": WorkerApp.livez,
    "/readyz": WorkerApp.readyz,
    "/health": WorkerApp.health,
    "/metrics": WorkerApp.metrics,
}


def _check(database: Database) -> None:
    try:
        check_schema(database, retry=False)
    except DatabaseUnavailableError:
        # Between two probes its connection may have been closed, by a pooler say: that is no database that is away.
        check_schema(database, retry=False)


def _respond(
    start_response: StartResponse,
    status: str,
    text: str,
    *,
    content_type: str = TEXT,
    headers: Iterable[tuple[str, str]] = (),
) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    start_response(
        status,
        [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"), *headers],
    )
    return [body]

"""The HTTP responses of the worker: one method per path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from lapse.http.readiness import Readiness

if TYPE_CHECKING:
    from lapse.worker import BackgroundWorker

OK, UNAVAILABLE = "200 OK", "503 Service Unavailable"
NOT_FOUND, WRONG_METHOD = "404 Not Found", "405 Method Not Allowed"
TEXT, JSON = "text/plain; charset=utf-8", "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text-based exposition format."""
LIVENESS, READINESS = "/livez", "/readyz"
ASKED_AT = "lapse.asked_at"
"""WSGI variable: `time.monotonic()` at the arrival of a request, which may then wait for a thread."""


class Reply(NamedTuple):
    """A response."""

    status: str
    text: str
    content_type: str = TEXT


class WorkerApp:
    """WSGI application of one worker. It changes nothing, and uses only method and path of a request."""

    def __init__(self, worker: BackgroundWorker) -> None:
        """Serve this worker; the application may be called from any thread."""
        self._worker = worker
        self._readiness = Readiness(worker.conversation_service.database)

    def __call__(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Respond to a request."""
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        handler = ROUTES.get(path)
        if handler is None:
            reply = Reply(NOT_FOUND, f"use one of {', '.join(ROUTES)}\n")
        elif method not in ("GET", "HEAD"):
            reply = Reply(WRONG_METHOD, "use GET\n")
        else:
            reply = self.readyz(environment.get(ASKED_AT)) if path == READINESS else handler(self)
        body = reply.text.encode()
        headers = {"Content-Type": reply.content_type, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        if reply.status == WRONG_METHOD:
            headers["Allow"] = "GET, HEAD"
        start_response(reply.status, list(headers.items()))
        return [] if method == "HEAD" else [body]

    def livez(self) -> Reply:
        """Respond whether the loop makes progress. Independent of the database, which a restart would not repair."""
        worker, heartbeat = self._worker, self._worker.heartbeat
        if worker.started_at is not None and not worker.running:  # its thread may have died in an application
            return Reply(UNAVAILABLE, "the loop has ended\n")
        is_alive, doing = heartbeat.is_alive, heartbeat.description()
        return Reply(OK, f"alive: {doing}\n") if is_alive else Reply(UNAVAILABLE, f"the loop stands still: {doing}\n")

    def readyz(self, asked_at: float | None = None) -> Reply:
        """Respond whether the worker can do its work now; `asked_at` as for `Readiness.problem`."""
        if self._worker.stop_event.is_set():
            return Reply(UNAVAILABLE, "stopping\n")
        if problem := self._readiness.problem(asked_at):
            return Reply(UNAVAILABLE, f"not ready: {problem}\n")
        return Reply(OK, "ready: the database answers and has the right schema\n")

    def health(self) -> Reply:
        """Respond with `get_health_status()` as JSON."""
        return Reply(OK, f"{json.dumps(self._worker.get_health_status())}\n", JSON)

    def metrics(self) -> Reply:
        """Respond with the metrics, in the format that every scraper accepts."""
        registry = self._worker.instrumentation.registry
        if registry is None:
            return Reply(NOT_FOUND, "metrics are switched off (BACKGROUND_TASK_ENABLE_METRICS)\n")
        from prometheus_client import generate_latest

        return Reply(OK, generate_latest(registry).decode(), PROMETHEUS)


ROUTES: dict[str, Callable[[WorkerApp], Reply]] = {
    LIVENESS: WorkerApp.livez,
    READINESS: WorkerApp.readyz,
    "/health": WorkerApp.health,
    "/metrics": WorkerApp.metrics,
}

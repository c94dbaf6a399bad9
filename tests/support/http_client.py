"""Requests to a worker's HTTP server, and what Prometheus would read there."""

from __future__ import annotations

import http.client
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from lapse.http import WorkerApp


class Response(NamedTuple):
    status: int
    text: str


def request(port: int, path: str, method: str = "GET", timeout: float = 10) -> Response:
    """Ask the server on this port of 127.0.0.1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return Response(response.status, response.read().decode())
    finally:
        connection.close()


def ask(app: WorkerApp, path: str) -> tuple[int, str]:
    """Ask the application without a server."""
    begun: list[str] = []
    body = b"".join(app({"PATH_INFO": path, "REQUEST_METHOD": "GET"}, lambda status, headers: begun.append(status)))
    return int(begun[0].split()[0]), body.decode()


def samples(port: int) -> dict[tuple[str, str | None], float]:
    """Return the samples of `/metrics` by name and task, but for the buckets."""
    answer = request(port, "/metrics")
    assert answer.status == 200, answer
    return {
        (sample.name, sample.labels.get("task_type")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if "le" not in sample.labels
    }

"""Traces: a span for each run of a task and each batch, delivered to a collector; without the extra nothing at all."""

from __future__ import annotations

import http.server
import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from lapse import Database
from lapse.tracing import FLUSH_SECONDS
from tests.support.backlog import insert_conversations
from tests.support.commands import run_lapse, run_program, running_lapse
from tests.support.sql import run_sql

WITHOUT_THE_EXTRA = """
import sys
sys.modules["opentelemetry"] = None  # what an import finds where it is not installed
from lapse.cli import main
try:
    main()
finally:
    print([name for name, module in sys.modules.items() if name.startswith("opentelemetry") and module])
"""
WITHOUT_A_COLLECTOR = """
import sys
from lapse.cli import main
try:
    main()
finally:
    print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""


class Collector:
    """Receives OTLP over HTTP, as a collector would."""

    def __init__(self) -> None:
        self.resources: list[dict[str, str]] = []
        self.spans: list[Span] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_address[1]}"}
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            self.resources.append({a.key: a.value.string_value for a in of_resource.resource.attributes})
            for scope in of_resource.scope_spans:
                self.spans.extend(scope.spans)

    def named(self, name: str, task: str) -> list[Span]:
        return [span for span in self.spans if span.name == name and attributes(span)["lapse.task"] == task]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def attributes(span: Span) -> dict[str, str | int]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    opened = Collector()
    yield opened
    opened.close()


def test_each_run_of_a_task_and_each_batch_is_a_span(database_url: str, database: Database) -> None:
    insert_conversations(database, range(5), expires_in=-timedelta(minutes=1))
    with collector() as received:
        options = ("--once", "--batch-size", "2", "--database-url", database_url)
        assert run_lapse("worker", *options, env=received.env).returncode == 0
    (run,) = received.named("lapse.task", "expired_conversations")
    assert attributes(run) == {
        "lapse.task": "expired_conversations",
        "lapse.cycle": 1,
        "lapse.batches": 3,
        "lapse.ended": 5,
        "lapse.rearmed": 0,
        "lapse.refused": 0,
    }
    batches = received.named("lapse.batch", "expired_conversations")
    assert [attributes(batch)["lapse.ended"] for batch in batches] == [2, 2, 1]
    assert {batch.parent_span_id for batch in batches} == {run.span_id}
    (resource,) = received.resources
    assert (resource["service.name"], resource["service.version"]) == ("lapse-worker", "0.1.0")


def test_an_error_is_on_its_spans_without_an_address(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        insert_conversations(database, range(1), expires_in=-timedelta(minutes=1))
        run_sql(database, "ALTER TABLE conversation_events RENAME COLUMN data TO of_12120000000")
    with collector() as received:
        env = {**received.env, "OTEL_SERVICE_NAME": "night-shift"}
        assert run_lapse("worker", "--once", "--database-url", postgres_url, env=env).returncode == 1
    spans = [
        *received.named("lapse.task", "expired_conversations"),
        *received.named("lapse.batch", "expired_conversations"),
    ]
    assert len(spans) == 2
    for span in spans:
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert "column" in span.status.message
        assert "12120000000" not in str(span)
        (error,) = span.events
        assert {a.key: a.value.string_value for a in error.attributes}["exception.type"] == "DatabaseError"
    assert received.resources[0]["service.name"] == "night-shift"


@pytest.mark.parametrize("behaviour", ["refuses", "says nothing"])
def test_a_collector_that_is_away_does_not_hold_up_a_stop(
    behaviour: str, database_url: str, database: Database
) -> None:
    insert_conversations(database, range(5), expires_in=-timedelta(minutes=1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        if behaviour == "refuses":
            silent.close()
        with running_lapse("worker", "--database-url", database_url, env=env) as worker:
            assert worker.wait_for("task processed")["count"] == 5
            assert worker.stop(signal.SIGTERM) < FLUSH_SECONDS + 1
            assert (worker.process.returncode, worker.stderr) == (0, "")


def test_without_the_extra_nothing_of_it_is_imported(
    database_url: str,
) -> None:
    command = (sys.executable, "-c", WITHOUT_THE_EXTRA, "worker", "--once", "--database-url", database_url)
    without = run_program(*command)
    assert (without.returncode, without.stdout, without.stderr) == (0, "[]\n", "")
    wanted = run_program(*command, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert wanted.returncode == 0
    line, imported = wanted.stdout.splitlines()
    assert (json.loads(line)["event"], imported) == ("no traces", "[]")
    assert "lapse[otel] is not installed" in json.loads(line)["reason"]


def test_without_a_collector_in_the_environment_nothing_is_prepared(database_url: str) -> None:
    command = (sys.executable, "-c", WITHOUT_A_COLLECTOR, "worker", "--once", "--database-url", database_url)
    result = run_program(*command)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")

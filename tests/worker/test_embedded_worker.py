"""A worker inside an application: what belongs to the whole process stays the application's."""

from __future__ import annotations

import subprocess
import sys

from tests.support.commands import environment

APPLICATION = """
import logging, signal, sys, warnings
import prometheus_client, prometheus_client.metrics, structlog
from opentelemetry import trace
from lapse import BackgroundWorker, ConversationService
from lapse.http import WorkerApp, serving
from tests.support.http_client import request

def state():
    return (
        logging.root.handlers[:], logging.root.level, logging.getLogger("waitress.queue").level,
        structlog.get_config(), warnings.showwarning, trace.get_tracer_provider(),
        [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)],
        sorted(prometheus_client.REGISTRY._names_to_collectors), prometheus_client.metrics._use_created,
        prometheus_client.generate_latest().count(b"_created"), sys.excepthook,
    )

structlog.configure(processors=[lambda logger, name, event: "mine"])
logging.basicConfig(level=logging.ERROR)
prometheus_client.Counter("mine", "My own.").inc()
before = state()
workers = [BackgroundWorker(service=ConversationService("sqlite:///lapse.db")) for _ in range(2)]
for worker in workers:
    with serving(WorkerApp(worker), "127.0.0.1:0") as (_, port):
        for path in ("/livez", "/readyz", "/health", "/metrics"):
            assert request(port, path).status in (200, 503)
    assert worker.run_once()
assert state() == before, (state(), before)
"""


def test_a_worker_inside_an_application_leaves_its_configuration_alone() -> None:
    env = environment({"PYTHONPATH": ":".join(sys.path)})
    ran = subprocess.run([sys.executable, "-c", APPLICATION], env=env, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")

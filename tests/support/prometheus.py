"""A real Prometheus that scrapes workers and judges the alert rules of `deploy/`."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.support.promql import ALERTS
from tests.support.require_program import missing

PROGRAM = shutil.which("prometheus")
MISSING = "there is no prometheus on this machine (a package of Debian and others)"


class Prometheus:
    """A running Prometheus' answers."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API."""
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, query: str) -> list[dict[str, Any]]:
        """Return the series that a query finds now."""
        return list(self.ask("query", query=query)["result"])

    def by_task(self, query: str) -> dict[str, float]:
        """Return the values that a query finds now, by their task."""
        return {found["metric"]["task_type"]: float(found["value"][1]) for found in self.query(query)}

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing."""
        return list(self.ask("alerts")["alerts"])

    def is_up(self) -> bool:
        try:
            urllib.request.urlopen(f"{self._url}/-/ready", timeout=1).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


@contextmanager
def running_prometheus(folder: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Scrape these workers each second, with the alerts of `deploy/`."""
    if PROGRAM is None:
        missing(MISSING)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": "lapse-worker", "static_configs": [{"targets": list(targets)}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    command = [
        str(PROGRAM),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("w+", encoding="utf-8") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            prometheus, deadline = Prometheus(port), time.monotonic() + 30
            while not prometheus.is_up():
                assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline, "prometheus did not start in 30 seconds"
                time.sleep(0.1)
            yield prometheus
        finally:
            process.terminate()

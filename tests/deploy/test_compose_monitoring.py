"""Prometheus and Grafana in the Compose file find the workers, the alerts and the dashboard, and each other."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.containers import (
    DEPLOY,
    argument_of,
    environment,
    file_behind,
    help_of,
    load_yaml,
    mounts,
    run,
    services,
    tool,
)

PROMETHEUS_FILE = DEPLOY / "prometheus/prometheus.yml"
DASHBOARD = DEPLOY / "grafana/lapse.json"
PROVISIONING = "/etc/grafana/provisioning"
JOB = "lapse-worker"
README = DEPLOY / "docker/README.md"


def prometheus() -> Any:
    """Return the configuration that Prometheus reads in its container."""
    (option,) = (word for word in services()["prometheus"]["command"] if word.startswith("--config.file="))
    path = file_behind("prometheus", option.removeprefix("--config.file="))
    assert path == PROMETHEUS_FILE
    return load_yaml(path)


def provisioned(kind: str) -> Any:
    """Return the one thing of a kind that Grafana is given at its start."""
    folder = file_behind("grafana", f"{PROVISIONING}/{kind}")
    (path,) = folder.iterdir()
    (found,) = load_yaml(path)["datasources" if kind == "datasources" else "providers"]
    return found


def meet(one: str, other: str) -> bool:
    """Tell whether two services have a network in common."""
    return bool(set(services()[one]["networks"]) & set(services()[other]["networks"]))


def test_prometheus_accepts_its_configuration_and_the_alerts() -> None:
    program = tool("promtool", "Debian's package prometheus")
    status, output = run(program, "check", "config", PROMETHEUS_FILE)
    assert status == 0, output
    assert re.search(r"SUCCESS: [1-9]\d* rules found", output), output


def test_prometheus_finds_every_worker() -> None:
    jobs = {job["job_name"]: job for job in prometheus()["scrape_configs"]}
    (discovery,) = jobs[JOB]["dns_sd_configs"]
    assert discovery["names"] == ["worker"]
    assert discovery["type"] == "A"
    assert meet("prometheus", "worker")
    port = discovery["port"]
    assert argument_of("EXPOSE") == str(port)
    assert environment()["LAPSE_HTTP"] == f"0.0.0.0:{port}"
    assert "metrics_path" not in jobs[JOB], "the worker's is the default"


def test_the_alerts_name_jobs_that_prometheus_has() -> None:
    (name,) = prometheus()["rule_files"]
    config = next(mount.target for mount in mounts("prometheus") if mount.source == PROMETHEUS_FILE.parent)
    alerts = file_behind("prometheus", str(config / name)).read_text(encoding="utf-8")
    named = set(re.findall(r'\bjob="([^"]+)"', alerts))
    assert JOB in named
    assert named <= {job["job_name"] for job in prometheus()["scrape_configs"]}


def test_grafana_asks_this_prometheus() -> None:
    source = provisioned("datasources")
    url = urlsplit(source["url"])
    assert source["type"] == "prometheus"
    assert url.hostname == "prometheus"
    assert url.port == 9090
    assert meet("grafana", "prometheus")
    assert source["jsonData"]["timeInterval"] == prometheus()["global"]["scrape_interval"]


def test_grafana_is_given_the_dashboard() -> None:
    folder = PurePosixPath(provisioned("dashboards")["options"]["path"])
    assert file_behind("grafana", str(folder / DASHBOARD.name)) == DASHBOARD
    assert json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def test_the_dashboard_asks_the_data_source_that_grafana_is_given() -> None:
    dashboard = DASHBOARD.read_text(encoding="utf-8")
    variables = {f"${{{variable['name']}}}" for variable in json.loads(dashboard)["templating"]["list"]}
    asked = set(re.findall(r'"datasource": *\{[^}]*"uid": *"([^"]*)"', dashboard))
    assert asked
    assert asked - variables - {"-- Grafana --"} <= {provisioned("datasources")["uid"]}


def test_grafana_reads_only_folders_that_it_knows() -> None:
    targets = [mount.target for mount in mounts("grafana") if mount.source and mount.source != DASHBOARD]
    assert targets == [PurePosixPath(PROVISIONING) / kind for kind in ("datasources", "dashboards")]


# --- the recipe ---------------------------------------------------------------------------------------------------


def recipe() -> list[list[str]]:
    """Return the commands of the README's shell blocks, as words."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_services_of_the_recipe_exist() -> None:
    verbs = {"exec", "run", "stop", "logs", "kill"}
    commands = [words for words in recipe() if words[:2] == ["docker", "compose"] and words[2] in verbs]
    named = [next(word for word in words[3:] if not re.match(r"-|SIG", word)) for words in commands]
    assert set(named) == {"postgres", "migrate", "worker"}
    (scaled,) = (word for words in recipe() for word in words if "=2" in word)
    assert scaled.partition("=")[0] in services()


def test_the_commands_of_lapse_in_the_recipe_exist() -> None:
    commands = [words[words.index("lapse") + 1 :] for words in recipe() if words[2:4] == ["exec", "worker"]]
    assert commands
    for arguments in commands:
        status, output = help_of(*arguments)
        assert status == 0, output


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8")))
def test_a_link_of_the_recipe_leads_somewhere(target: str) -> None:
    assert (README.parent / Path(target)).exists()

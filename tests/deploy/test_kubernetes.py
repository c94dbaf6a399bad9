"""The manifests of deploy/kubernetes: Kubernetes takes them, and they fit lapse, each other and the alerts."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from lapse import Settings
from lapse.http import ROUTES
from lapse.http.readiness import LIMIT_SECONDS
from lapse.settings import load_settings
from tests.support.commands import run_here, run_lapse, running_lapse
from tests.support.http_client import request
from tests.support.manifests import (
    FOLDER,
    ROOT,
    Object,
    build,
    container,
    is_of_kubernetes,
    labels,
    one,
    pods,
    selects,
)
from tests.support.pod_security import violations
from tests.support.promql import ALERTS
from tests.support.promtool import promtool, said

PRODUCTION = "overlays/production"
BUILDS = ["base", PRODUCTION]
# The README names the older one as the oldest that will do.
API_VERSIONS = ["1.31", kubernetes_validate.latest_version()]
SETTINGS = {field.alias for field in Settings.model_fields.values()}
LIVENESS, READINESS, METRICS = "/livez", "/readyz", "/metrics"
JOB = "lapse-worker"


@pytest.fixture(params=BUILDS)
def built(request: pytest.FixtureRequest) -> list[Object]:
    return build(request.param)


def variables(pod: Object, objects: list[Object]) -> dict[str, Any]:
    """Return the environment of a pod's container: values as text, references to other objects as they are."""
    found: dict[str, Any] = {}
    for source in container(pod).get("envFrom", []):
        settings = one(objects, "ConfigMap")
        assert source == {"configMapRef": {"name": settings["metadata"]["name"]}}
        found |= settings["data"]
    return found | {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(pod)["env"]}


def port_number(pod: Object, name: str) -> int:
    (number,) = [port["containerPort"] for port in container(pod)["ports"] if port["name"] == name]
    assert isinstance(number, int)
    return number


# --- Kubernetes takes them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", API_VERSIONS)
def test_every_built_in_kind_fits_its_schema(built: list[Object], version: str) -> None:
    for described in filter(is_of_kubernetes, built):
        kubernetes_validate.validate(described, version, strict=True)


def test_only_the_operators_kinds_have_no_schema() -> None:
    others = [described["kind"] for described in build(PRODUCTION) if not is_of_kubernetes(described)]
    assert others == ["PodMonitor", "PrometheusRule"]
    assert all(map(is_of_kubernetes, build("base")))


def test_a_misspelled_field_is_refused() -> None:
    worker = one(build("base"), "Deployment")
    container(worker["spec"]["template"])["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessprobe"):
        kubernetes_validate.validate(worker, API_VERSIONS[-1], strict=True)


# --- security -----------------------------------------------------------------------------------------------------


def test_all_pods_fit_the_restricted_profile_and_more(built: list[Object]) -> None:
    assert sorted(pods(built)) == ["Deployment", "Job"]
    for pod in pods(built).values():
        assert violations(pod) == []
        assert container(pod)["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False  # no variables that others' Services make


def test_the_namespace_enforces_the_restricted_profile() -> None:
    assert labels(one(build(PRODUCTION), "Namespace"))["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_account_of_the_pods_has_no_token(built: list[Object]) -> None:
    account = one(built, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert {pod["spec"]["serviceAccountName"] for pod in pods(built).values()} == {account["metadata"]["name"]}


def test_the_account_of_the_pods_has_no_rights(built: list[Object]) -> None:
    assert [described for described in built if described["apiVersion"].startswith("rbac")] == []


def test_the_secret_of_the_database_url_is_not_among_the_objects(built: list[Object]) -> None:
    example = yaml.safe_load((FOLDER / "secret.example.yaml").read_text())
    kubernetes_validate.validate(example, API_VERSIONS[-1], strict=True)
    (key,) = example["stringData"]
    for pod in pods(built).values():
        reference = {"name": example["metadata"]["name"], "key": key}
        assert variables(pod, built)["DATABASE_URL"] == {"secretKeyRef": reference}
        assert container(pod)["env"].count({"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": reference}}) == 1
    assert "Secret" not in {described["kind"] for described in built}
    assert "://" not in yaml.safe_dump([described for described in built if described["kind"] != "PrometheusRule"])
    assert "DATABASE_URL" not in one(built, "ConfigMap")["data"]


def test_lapse_can_read_the_example_of_the_secret() -> None:
    from lapse.store.urls import parse_url

    example = yaml.safe_load((FOLDER / "secret.example.yaml").read_text())
    assert example["metadata"]["namespace"] == one(build(PRODUCTION), "Namespace")["metadata"]["name"]
    url = parse_url(example["stringData"]["DATABASE_URL"])
    assert (url.get_backend_name(), url.host, url.password) == ("postgresql", "db.example.com", "example-password")


def test_git_ignores_the_filled_in_secret() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what it ignores is not known here")
    command = [git, "-c", f"safe.directory={ROOT}", "check-ignore", "deploy/kubernetes/secret.yaml"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


# --- they fit lapse -----------------------------------------------------------------------------------------------


def test_commands_and_options_exist(built: list[Object]) -> None:
    commands = {kind: container(pod)["command"] for kind, pod in pods(built).items()}
    assert {kind: command[:2] for kind, command in commands.items()} == {
        "Deployment": ["lapse", "worker"],
        "Job": ["lapse", "migrate"],
    }
    for pod in pods(built).values():
        command: list[str] = [*container(pod)["command"], *container(pod).get("args", [])]
        result = run_here(*command[1:], "--help")
        assert (result.returncode, result.stderr) == (0, "")


def test_variables_are_settings_with_usable_values(built: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    for pod in pods(built).values():
        environment = variables(pod, built)
        assert set(environment) <= SETTINGS
        for name, value in environment.items():
            if isinstance(value, str):
                monkeypatch.setenv(name, value)
    load_settings()


def test_the_base_changes_no_default() -> None:
    defaults = {field.alias: str(field.default) for field in Settings.model_fields.values()}
    assert one(build("base"), "ConfigMap")["data"].items() <= defaults.items()


def test_probes_ask_the_paths_and_the_port_at_which_the_worker_answers(built: list[Object]) -> None:
    worker = container(pods(built)["Deployment"])
    probes = {name: worker[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": LIVENESS,
        "liveness": LIVENESS,
        "readiness": READINESS,
    }
    host, port = variables(pods(built)["Deployment"], built)["LAPSE_HTTP"].rsplit(":", 1)
    assert {probe["path"] for probe in probes.values()} <= set(ROUTES)
    assert host == "0.0.0.0"
    for probe in probes.values():
        assert port_number(pods(built)["Deployment"], probe["port"]) == int(port)


def test_the_pods_commands_do_what_the_manifests_expect(empty_postgres_url: str) -> None:
    objects = build(PRODUCTION)
    commands = {kind: container(pod)["command"][1:] for kind, pod in pods(objects).items()}
    # A container has an address of its own; here the port may be taken.
    elsewhere = {"DATABASE_URL": empty_postgres_url, "LAPSE_HTTP": "127.0.0.1:0"}
    migrated = run_lapse(*commands["Job"], env=variables(pods(objects)["Job"], objects) | elsewhere)
    assert (migrated.returncode, migrated.stderr) == (0, "")
    with running_lapse(
        *commands["Deployment"], env=variables(pods(objects)["Deployment"], objects) | elsewhere
    ) as worker:
        port = worker.wait_for("http server listening")["port"]
        for path in (LIVENESS, READINESS, METRICS):
            answer = request(port, path)
            assert answer.status == 200, (path, answer)
        grace = pods(objects)["Deployment"]["spec"]["terminationGracePeriodSeconds"]
        assert worker.stop(signal.SIGTERM) < grace / 5
        assert worker.process.returncode == 0


def test_probes_are_patient_enough(built: list[Object]) -> None:
    worker = container(pods(built)["Deployment"])
    startup, liveness, readiness = (worker[f"{name}Probe"] for name in ("startup", "liveness", "readiness"))
    assert readiness["timeoutSeconds"] > LIMIT_SECONDS
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 60  # a slow start under the CPU limit
    # The application is patient already; here a lost answer is forgiven, and a loop that stands is not left to stand.
    assert liveness["failureThreshold"] > 1
    assert liveness["failureThreshold"] * liveness["periodSeconds"] <= 60


def test_resources_are_those_of_the_specification(built: list[Object]) -> None:
    for pod in pods(built).values():
        assert container(pod)["resources"] == {
            "requests": {"memory": "256Mi", "cpu": "100m"},
            "limits": {"memory": "512Mi", "cpu": "500m"},
        }


# --- they fit each other ------------------------------------------------------------------------------------------


def test_two_workers_run_at_least_during_an_upgrade_too(built: list[Object]) -> None:
    spec = one(built, "Deployment")["spec"]
    assert spec["replicas"] >= 2
    assert spec["strategy"] == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 30


def test_a_drain_takes_one_worker_at_a_time_ready_or_not(built: list[Object]) -> None:
    spec = one(built, "PodDisruptionBudget")["spec"]
    assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_selectors_take_the_workers_and_not_the_migration(built: list[Object]) -> None:
    worker, migration = pods(built)["Deployment"], pods(built)["Job"]
    spread = worker["spec"]["topologySpreadConstraints"]
    assert [constraint["topologyKey"] for constraint in spread] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    selectors = [constraint["labelSelector"] for constraint in spread]
    kinds = {"Deployment", "PodDisruptionBudget", "PodMonitor"}
    selectors += [described["spec"]["selector"] for described in built if described["kind"] in kinds]
    assert len(selectors) >= 4
    for selector in selectors:
        assert selects(selector, worker)
        assert not selects(selector, migration)


def test_everything_has_the_recommended_labels(built: list[Object]) -> None:
    for described in [*built, *pods(built).values()]:
        if described.get("kind") != "ConfigMap":
            assert "app.kubernetes.io/name" in labels(described), described
        assert labels(described)["app.kubernetes.io/part-of"] == "lapse"


def test_the_network_policy_lets_in_only_what_scrapes_the_workers() -> None:
    objects = build(PRODUCTION)
    spec = one(objects, "NetworkPolicy")["spec"]
    assert all(selects(spec["podSelector"], pod) for pod in pods(objects).values())
    assert spec["policyTypes"] == ["Ingress"]
    (rule,) = spec["ingress"]
    assert rule["from"]
    assert [port_number(pods(objects)["Deployment"], port["port"]) for port in rule["ports"]] == [8080]


# --- monitoring ---------------------------------------------------------------------------------------------------


def test_prometheus_scrapes_under_the_name_that_the_alerts_ask_for() -> None:
    objects = build(PRODUCTION)
    worker, monitor = pods(objects)["Deployment"], one(objects, "PodMonitor")["spec"]
    assert labels(worker)[monitor["jobLabel"]] == JOB
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert (port_number(worker, endpoint["port"]), endpoint["path"]) == (8080, METRICS)
    asked_for = set(re.findall(r'job="([^"]*)"', yaml.safe_dump(one(objects, "PrometheusRule"))))
    assert asked_for == {JOB}


def test_the_alerts_are_those_of_the_prometheus_files() -> None:
    spec = one(build(PRODUCTION), "PrometheusRule")["spec"]
    advice = "make it again: components/monitoring/prometheusrule.yaml says how"
    assert spec == yaml.safe_load(ALERTS.read_text(encoding="utf-8")), advice


def test_promtool_finds_nothing_wrong_with_the_alerts(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(one(build(PRODUCTION), "PrometheusRule")["spec"]))
    finished = promtool("check", "rules", "--lint-fatal", file)
    assert finished.returncode == 0, said(finished)
    assert re.search(r"SUCCESS: [1-9]\d* rules found", said(finished))

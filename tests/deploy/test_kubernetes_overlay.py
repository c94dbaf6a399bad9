"""The production overlay of deploy/kubernetes: what it adds, what an upgrade changes, what the README says."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import pytest

from lapse import __version__
from tests.support.documents import commands
from tests.support.manifests import FOLDER, Object, build, container, is_of_kubernetes, labels, one, pods

PRODUCTION = "overlays/production"
VERSION = "app.kubernetes.io/version"
README = FOLDER / "README.md"
SPARED = ("app.kubernetes.io/component", "worker")
"""What the first step of an installation leaves to the last one."""


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """Return a copy of the files that a test may change."""
    return Path(shutil.copytree(FOLDER, tmp_path / "kubernetes"))


def edit(root: Path, old: str, new: str) -> list[Object]:
    """Change one place of the production overlay's kustomization and return what it builds then."""
    file = root / PRODUCTION / "kustomization.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new), encoding="utf-8")
    return build(PRODUCTION, root)


def names(objects: list[Object]) -> set[tuple[str, str]]:
    return {(described["kind"], described["metadata"]["name"]) for described in objects}


def test_all_is_in_one_namespace() -> None:
    objects = build(PRODUCTION)
    namespace = one(objects, "Namespace")["metadata"]["name"]
    assert {described["metadata"].get("namespace") for described in objects} == {None, namespace}
    assert [d["kind"] for d in objects if "namespace" not in d["metadata"]] == ["Namespace"]


def test_the_image_is_pinned_to_this_version() -> None:
    objects = build(PRODUCTION)
    images = {container(pod)["image"] for pod in pods(objects).values()}
    assert images == {f"registry.example.com/lapse:{__version__}"}
    for described in (one(objects, "Deployment"), one(objects, "Job"), *pods(objects).values()):
        assert labels(described)[VERSION] == __version__


def test_a_new_version_has_a_migration_of_its_own(changed: Path) -> None:
    before, after = build(PRODUCTION), edit(changed, f"newTag: {__version__}", "newTag: 7.8.9-rc.1")
    assert one(before, "Job")["metadata"]["name"] == f"lapse-migrate-{__version__}"
    assert names(after) - names(before) == {("Job", "lapse-migrate-7.8.9-rc.1")}
    for pod in pods(after).values():
        assert container(pod)["image"] == "registry.example.com/lapse:7.8.9-rc.1"
        assert labels(pod)[VERSION] == "7.8.9-rc.1"


def test_a_changed_setting_rolls_the_workers_only(changed: Path) -> None:
    before, after = build(PRODUCTION), edit(changed, "IDLE_TIMEOUT_MINUTES=30", "IDLE_TIMEOUT_MINUTES=45")
    assert one(after, "ConfigMap")["data"]["CONVERSATION_IDLE_TIMEOUT_MINUTES"] == "45"
    assert pods(before)["Deployment"] != pods(after)["Deployment"]
    # Kubernetes refuses to change a Job.
    assert one(before, "Job") == one(after, "Job")


def test_workers_are_selected_alike_in_every_version(changed: Path) -> None:
    now, base = (one(build(name), "Deployment")["spec"]["selector"] for name in (PRODUCTION, "base"))
    later = one(edit(changed, f"newTag: {__version__}", "newTag: 2.0.0"), "Deployment")["spec"]["selector"]
    # Kubernetes refuses to change it.
    assert base == now == later


def test_the_number_of_workers_is_set_in_the_overlay(changed: Path) -> None:
    assert one(edit(changed, "count: 2", "count: 5"), "Deployment")["spec"]["replicas"] == 5


def test_only_the_monitoring_component_needs_kinds_of_the_operator(changed: Path) -> None:
    objects = edit(changed, "  - ../../components/monitoring\n", "")
    assert names(build(PRODUCTION)) - names(objects) == {("PodMonitor", "lapse-worker"), ("PrometheusRule", "lapse")}
    assert all(map(is_of_kubernetes, objects))


def test_the_first_step_brings_all_that_the_migration_needs_and_no_worker() -> None:
    (key, value), objects = SPARED, build(PRODUCTION)
    first = [described for described in objects if labels(described).get(key) != value]
    assert {"Namespace", "ServiceAccount", "Job"} <= {described["kind"] for described in first}
    assert list(pods(first)) == ["Job"]
    assert "envFrom" not in container(pods(first)["Job"])


# --- the README ---------------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_name_what_there_is() -> None:
    objects = build(PRODUCTION)
    namespace = one(objects, "Namespace")["metadata"]["name"]
    assert len(commands(README)) > 10
    for command in commands(README):
        for option, value in itertools.pairwise(command):
            if option in ("-k", "-f", "cp") and value != "secret.yaml":
                assert (FOLDER / value).exists(), command
            if option == "-n":
                assert value == namespace, command
        for kind, name in (word.split("/") for word in command if re.match(r"(job|deployment)/", word)):
            assert name == one(objects, kind.capitalize())["metadata"]["name"], command


def test_the_readme_waits_for_the_migration_between_the_two_steps() -> None:
    steps = [command[1:] for command in commands(README) if command[1] in ("apply", "wait") and "-f" not in command]
    first, wait, last = steps
    assert first == [*last, "-l", "!=".join(SPARED)]
    assert "--for=condition=complete" in wait

"""What deploy/kubernetes becomes when kustomize has built it, and what tests ask of it."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.require_program import missing

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
_MONITORING = "monitoring.coreos.com/v1"
"""The API of the Prometheus operator, whose kinds Kubernetes' own schemas do not hold."""
_OLDEST_KUSTOMIZE = 5
"""kubectl 1.27 brought it; older ones do not know all that the files use."""

Object = dict[str, Any]


@functools.cache
def _kubectl() -> str | None:
    """Return the kubectl of this machine if it is new enough."""
    program = shutil.which("kubectl")
    if program is None:
        return None
    shown = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False)
    version = json.loads(shown.stdout or "{}").get("kustomizeVersion", "v0")
    return program if int(version.lstrip("v").split(".")[0]) >= _OLDEST_KUSTOMIZE else None


@functools.cache
def _text(folder: Path) -> str:
    program = _kubectl()
    if program is None:
        missing("there is no kubectl on this machine, or none from 1.27 on")
    finished = subprocess.run([program, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    # A deprecated field is a warning on standard error.
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stderr
    return finished.stdout


def build(name: str, root: Path = FOLDER) -> list[Object]:
    """Return the objects of a kustomization, each a copy that the caller may change."""
    return [found for found in yaml.safe_load_all(_text(root / name)) if found]


def one(objects: list[Object], kind: str) -> Object:
    """Return the only object of a kind."""
    found = [candidate for candidate in objects if candidate["kind"] == kind]
    assert len(found) == 1, f"{len(found)} objects of the kind {kind}"
    return found[0]


def is_of_kubernetes(described: Object) -> bool:
    """Tell whether an object is of a built-in kind."""
    return str(described["apiVersion"]) != _MONITORING


def pods(objects: list[Object]) -> dict[str, Object]:
    """Return the templates of the pods that the objects make, by the kinds of those."""
    return {made["kind"]: made["spec"]["template"] for made in objects if "template" in made.get("spec", {})}


def container(pod: Object) -> Object:
    """Return the only container of a pod."""
    spec = pod["spec"]
    assert "initContainers" not in spec
    (found,) = spec["containers"]
    assert isinstance(found, dict)
    return found


def labels(described: Object) -> dict[str, str]:
    """Return the labels of an object or of a pod's template."""
    found = described["metadata"].get("labels", {})
    assert isinstance(found, dict)
    return found


def selects(selector: Object, pod: Object) -> bool:
    """Tell whether a selector that only names labels takes a pod; an empty one would take them all."""
    assert list(selector) == ["matchLabels"]
    assert selector["matchLabels"]
    return set(selector["matchLabels"].items()) <= set(labels(pod).items())

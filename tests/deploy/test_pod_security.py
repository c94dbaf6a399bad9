"""The restricted profile by which the manifests are judged: each control can fail, and none does without cause."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.support.manifests import build, pods
from tests.support.pod_security import CONTROLS, Object, violations

FIRST = ("containers", 0)
CONTEXT = ("securityContext",)
BROKEN: list[tuple[str, tuple[str | int, ...], Any]] = [
    ("HostProcess", (*CONTEXT, "windowsOptions"), {"hostProcess": True}),
    ("HostProcess", (*FIRST, *CONTEXT, "windowsOptions"), {"hostProcess": True}),
    ("Host Namespaces", ("hostNetwork",), True),
    ("Host Namespaces", ("hostPID",), True),
    ("Host Namespaces", ("hostIPC",), True),
    ("Privileged Containers", (*FIRST, *CONTEXT, "privileged"), True),
    ("Host Ports", (*FIRST, "ports"), [{"containerPort": 8080, "hostPort": 8080}]),
    ("Host Probes / Lifecycle Hooks", (*FIRST, "livenessProbe"), {"httpGet": {"port": 80, "host": "10.0.0.1"}}),
    ("Host Probes / Lifecycle Hooks", (*FIRST, "startupProbe"), {"tcpSocket": {"port": 80, "host": "10.0.0.1"}}),
    ("Host Probes / Lifecycle Hooks", (*FIRST, "lifecycle"), {"preStop": {"httpGet": {"port": 80, "host": "x"}}}),
    ("AppArmor", (*CONTEXT, "appArmorProfile"), {"type": "Unconfined"}),
    ("AppArmor", (*FIRST, *CONTEXT, "appArmorProfile"), {"type": "Unconfined"}),
    ("SELinux", (*CONTEXT, "seLinuxOptions"), {"type": "spc_t"}),
    ("SELinux", (*FIRST, *CONTEXT, "seLinuxOptions"), {"user": "system_u"}),
    ("SELinux", (*FIRST, *CONTEXT, "seLinuxOptions"), {"role": "system_r"}),
    ("/proc Mount Type", (*FIRST, *CONTEXT, "procMount"), "Unmasked"),
    ("Sysctls", (*CONTEXT, "sysctls"), [{"name": "kernel.msgmax", "value": "1"}]),
    ("Volume Types", ("volumes",), [{"name": "host", "hostPath": {"path": "/"}}]),
    ("Volume Types", ("volumes",), [{"name": "tmp", "emptyDir": {}}, {"name": "share", "nfs": {"path": "/"}}]),
    ("Privilege Escalation", (*FIRST, *CONTEXT, "allowPrivilegeEscalation"), True),
    ("Privilege Escalation", (*FIRST, *CONTEXT, "allowPrivilegeEscalation"), None),
    ("Running as Non-root", (*CONTEXT, "runAsNonRoot"), None),
    ("Running as Non-root", (*CONTEXT, "runAsNonRoot"), False),
    ("Running as Non-root", (*FIRST, *CONTEXT, "runAsNonRoot"), False),
    ("Running as Non-root user", (*CONTEXT, "runAsUser"), 0),
    ("Running as Non-root user", (*FIRST, *CONTEXT, "runAsUser"), 0),
    ("Seccomp", (*CONTEXT, "seccompProfile"), None),
    ("Seccomp", (*CONTEXT, "seccompProfile"), {"type": "Unconfined"}),
    ("Seccomp", (*FIRST, *CONTEXT, "seccompProfile"), {"type": "Unconfined"}),
    ("Capabilities", (*FIRST, *CONTEXT, "capabilities"), None),
    ("Capabilities", (*FIRST, *CONTEXT, "capabilities"), {"drop": ["NET_RAW"]}),
    ("Capabilities", (*FIRST, *CONTEXT, "capabilities"), {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
]
ALLOWED: list[tuple[tuple[str | int, ...], Any]] = [
    ((*FIRST, *CONTEXT, "capabilities"), {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
    ((*FIRST, *CONTEXT, "privileged"), False),
    ((*CONTEXT, "seccompProfile"), {"type": "Localhost", "localhostProfile": "lapse.json"}),
    ((*CONTEXT, "sysctls"), [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]),
    ((*CONTEXT, "seLinuxOptions"), {"type": "container_t"}),
    ((*FIRST, *CONTEXT, "appArmorProfile"), {"type": "RuntimeDefault"}),
    (("volumes",), [{"name": "tmp", "emptyDir": {}}, {"name": "ca", "secret": {"secretName": "ca"}}]),
    ((*FIRST, "lifecycle"), {"preStop": {"exec": {"command": ["true"]}}}),
]
APPARMOR = "container.apparmor.security.beta.kubernetes.io/worker"


def worker() -> Object:
    return pods(build("base"))["Deployment"]


def changed(path: tuple[str | int, ...], value: Any) -> Object:
    """Return the worker's pod with one field set, or removed with None."""
    pod = copy.deepcopy(worker())
    place: Any = pod["spec"]
    *way, last = path
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return pod


@pytest.mark.parametrize(("control", "path", "value"), BROKEN)
def test_a_pod_that_breaks_one_control_breaks_that_one(control: str, path: tuple[str | int, ...], value: Any) -> None:
    assert violations(worker()) == []
    assert violations(changed(path, value)) == [control]


def test_each_control_is_seen_to_fail() -> None:
    assert {control for control, _, _ in BROKEN} == set(CONTROLS)


@pytest.mark.parametrize(("path", "value"), ALLOWED)
def test_what_the_profile_allows_is_allowed(path: tuple[str | int, ...], value: Any) -> None:
    assert violations(changed(path, value)) == []


@pytest.mark.parametrize("kind", ["initContainers", "ephemeralContainers"])
def test_containers_of_every_kind_are_judged(kind: str) -> None:
    pod = worker()
    pod["spec"][kind] = [{"name": "open", "image": "busybox"}]
    assert violations(pod) == ["Privilege Escalation", "Capabilities"]


def test_containers_may_say_for_themselves_what_the_pod_does_not() -> None:
    pod = worker()
    for name in ("runAsNonRoot", "seccompProfile"):
        pod["spec"]["containers"][0]["securityContext"][name] = pod["spec"]["securityContext"].pop(name)
    assert violations(pod) == []
    pod["spec"]["containers"].append({**pod["spec"]["containers"][0], "securityContext": {}})
    assert {"Running as Non-root", "Seccomp"} <= set(violations(pod))


@pytest.mark.parametrize(
    ("profile", "found"), [("runtime/default", []), ("localhost/lapse", []), ("unconfined", ["AppArmor"])]
)
def test_apparmor_is_read_from_its_old_annotation_too(profile: str, found: list[str]) -> None:
    pod = worker()
    pod["metadata"]["annotations"] = {APPARMOR: profile}
    assert violations(pod) == found


def test_a_pod_without_any_setting_breaks_what_has_to_be_set() -> None:
    bare = {"metadata": {}, "spec": {"containers": [{"name": "bare", "image": "busybox"}]}}
    assert violations(bare) == ["Privilege Escalation", "Running as Non-root", "Seccomp", "Capabilities"]

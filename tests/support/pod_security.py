"""The level `restricted` of Kubernetes' Pod Security Standards, for Linux pods.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/, each control under its name there. Of the
profile as it was before and after a relaxation (sysctls, SELinux types) this is the stricter one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Object = dict[str, Any]

_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_VOLUME_TYPES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
    }
)
_SELINUX_TYPES = (None, "", "container_t", "container_init_t", "container_kvm_t")
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def violations(pod: Object) -> list[str]:
    """Return the names of the controls that a pod, or a pod's template, breaks."""
    return [name for name, is_kept in CONTROLS.items() if not is_kept(pod)]


def _containers(pod: Object) -> list[Object]:
    return [found for kind in _CONTAINERS for found in pod["spec"].get(kind, [])]


def _at(described: Any, *path: str) -> Any:
    """Return what lies at the end of a path, None where it ends early."""
    for name in path:
        described = (described or {}).get(name)
    return described


def _everywhere(pod: Object, *path: str) -> list[Any]:
    """Return a field of the security contexts of the pod and of all its containers."""
    return [_at(context, "securityContext", *path) for context in [pod["spec"], *_containers(pod)]]


def _for_all_containers(pod: Object, is_good: Callable[[Any], bool], *path: str) -> bool:
    """Tell whether a field is good for each container: its own value counts, else the pod's."""
    of_pod, *of_containers = _everywhere(pod, *path)
    return (of_pod is None or is_good(of_pod)) and all(is_good(of_pod if own is None else own) for own in of_containers)


def _handlers(pod: Object) -> Iterator[Object]:
    """Yield all that the kubelet may be told to ask: the probes and the hooks of the containers."""
    for container in _containers(pod):
        yield from (container[name] for name in _PROBES if name in container)
        yield from (container.get("lifecycle") or {}).values()


# --- baseline -----------------------------------------------------------------------------------------------------


def _host_process(pod: Object) -> bool:
    return not any(_everywhere(pod, "windowsOptions", "hostProcess"))


def _host_namespaces(pod: Object) -> bool:
    return not any(pod["spec"].get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))


def _privileged_containers(pod: Object) -> bool:
    return not any(_everywhere(pod, "privileged"))


def _host_ports(pod: Object) -> bool:
    return not any(port.get("hostPort") for container in _containers(pod) for port in container.get("ports", []))


def _host_probes(pod: Object) -> bool:
    return not any(_at(handler, kind, "host") for handler in _handlers(pod) for kind in ("httpGet", "tcpSocket"))


def _apparmor(pod: Object) -> bool:
    types = _everywhere(pod, "appArmorProfile", "type")
    annotations = _at(pod, "metadata", "annotations") or {}
    profiles = [value for name, value in annotations.items() if name.startswith(_APPARMOR)]
    return all(found in (None, "RuntimeDefault", "Localhost") for found in types) and all(
        profile == "runtime/default" or profile.startswith("localhost/") for profile in profiles
    )


def _selinux(pod: Object) -> bool:
    named = [*_everywhere(pod, "seLinuxOptions", "user"), *_everywhere(pod, "seLinuxOptions", "role")]
    return all(found in _SELINUX_TYPES for found in _everywhere(pod, "seLinuxOptions", "type")) and not any(named)


def _proc_mount(pod: Object) -> bool:
    return all(found in (None, "Default") for found in _everywhere(pod, "procMount"))


def _sysctls(pod: Object) -> bool:
    return all(sysctl["name"] in _SYSCTLS for sysctl in _at(pod, "spec", "securityContext", "sysctls") or [])


# --- restricted ---------------------------------------------------------------------------------------------------


def _volume_types(pod: Object) -> bool:
    return all(set(volume) - {"name"} <= _VOLUME_TYPES for volume in pod["spec"].get("volumes", []))


def _privilege_escalation(pod: Object) -> bool:
    return all(_at(found, "securityContext", "allowPrivilegeEscalation") is False for found in _containers(pod))


def _non_root(pod: Object) -> bool:
    return _for_all_containers(pod, lambda value: value is True, "runAsNonRoot")


def _non_root_user(pod: Object) -> bool:
    return all(found != 0 for found in _everywhere(pod, "runAsUser"))


def _seccomp(pod: Object) -> bool:
    return _for_all_containers(pod, lambda value: value in ("RuntimeDefault", "Localhost"), "seccompProfile", "type")


def _capabilities(pod: Object) -> bool:
    capabilities = [_at(found, "securityContext", "capabilities") or {} for found in _containers(pod)]
    return all(
        "ALL" in (found.get("drop") or []) and set(found.get("add") or []) <= {"NET_BIND_SERVICE"}
        for found in capabilities
    )


CONTROLS: dict[str, Callable[[Object], bool]] = {
    "HostProcess": _host_process,
    "Host Namespaces": _host_namespaces,
    "Privileged Containers": _privileged_containers,
    "Host Ports": _host_ports,
    "Host Probes / Lifecycle Hooks": _host_probes,
    "AppArmor": _apparmor,
    "SELinux": _selinux,
    "/proc Mount Type": _proc_mount,
    "Sysctls": _sysctls,
    # HostPath Volumes are among the types that this forbids.
    "Volume Types": _volume_types,
    "Privilege Escalation": _privilege_escalation,
    "Running as Non-root": _non_root,
    "Running as Non-root user": _non_root_user,
    # These two forbid more than their namesakes of the level `baseline`.
    "Seccomp": _seccomp,
    "Capabilities": _capabilities,
}

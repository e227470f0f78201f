"""The Pod Security Standards as checks on a pod's metadata and spec (KEP-2579), each with the
version of Kubernetes from which it holds.

`baseline` forbids known ways out of a container; `restricted` demands hardening on top. A check
returns None, or a violation with a short reason and its detail. Where a check of `restricted` is
stricter than one of `baseline`, it overrides it, so that one fault is not told twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from navarch.apiserver.admission.base import annotations_of, spec_of
from navarch.apiserver.authorization.rules import quoted
from navarch.apiserver.contracts import Object
from navarch.apiserver.podrefs import containers, volumes


@dataclass(frozen=True, slots=True)
class Violation:
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


Check = Callable[[Object], Violation | None]


@dataclass(frozen=True, slots=True)
class VersionedCheck:
    """A check and the minor version of Kubernetes from which it is part of the standard; a later
    entry of the same id replaces an earlier one."""

    id: str
    level: str
    since: int
    check: Check
    overrides: str = ""


_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
    }
)
_SYSCTLS_27 = _SYSCTLS | {"net.ipv4.ip_local_reserved_ports"}
_SYSCTLS_29 = _SYSCTLS_27 | {
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
_SYSCTLS_32 = _SYSCTLS_29 | {"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}
_SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t"})
_SELINUX_TYPES_31 = _SELINUX_TYPES | {"container_engine_t"}
_RESTRICTED_VOLUMES = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
]
_OTHER_VOLUMES = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
]
_PROFILES = ("RuntimeDefault", "Localhost")
_APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP_POD_ANNOTATION = "seccomp.security.alpha.kubernetes.io/pod"
_SECCOMP_ANNOTATION = "container.seccomp.security.alpha.kubernetes.io/"


def _security(holder: Object) -> Object:
    context: Object = holder.get("securityContext") or {}
    return context


def _join(items: Iterable[str]) -> str:
    return ", ".join(f'"{item}"' for item in items)


def _count(items: Iterable[Any], singular: str, plural: str = "") -> str:
    return singular if len(list(items)) == 1 else plural or f"{singular}s"


def _containers(names: list[str]) -> str:
    return f"{_count(names, 'container')} {_join(names)}"


def _setters(pod_is_bad: bool, names: list[str]) -> str:
    """Who set something: the pod, containers, or both; "" for nobody."""
    parts = ["pod"] if pod_is_bad else []
    return " and ".join([*parts, _containers(names)] if names else parts)


def _named(pod: Object, is_bad: Callable[[Object], bool]) -> list[str]:
    return [c.get("name", "") for c in containers(pod) if is_bad(c)]


def host_namespaces(pod: Object) -> Violation | None:
    spec = spec_of(pod)
    used = [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    return Violation("host namespaces", ", ".join(used)) if used else None


def host_path_volumes(pod: Object) -> Violation | None:
    names = [v.get("name", "") for v in volumes(pod) if v.get("hostPath") is not None]
    if not names:
        return None
    return Violation("hostPath volumes", f"{_count(names, 'volume')} {_join(names)}")


def host_ports(pod: Object) -> Violation | None:
    bad: list[str] = []
    ports: set[str] = set()
    for container in containers(pod):
        used = {str(p["hostPort"]) for p in container.get("ports") or () if p.get("hostPort")}
        if used:
            bad.append(container.get("name", ""))
            ports |= used
    if not bad:
        return None
    uses, noun = _count(bad, "uses", "use"), _count(ports, "hostPort")
    return Violation("hostPort", f"{_containers(bad)} {uses} {noun} {', '.join(sorted(ports))}")


def host_probes(pod: Object) -> Violation | None:
    bad: list[str] = []
    hosts: set[str] = set()
    for container in containers(pod):
        used = set(_handler_hosts(container))
        if used:
            bad.append(container.get("name", ""))
            hosts |= used
    if not bad:
        return None
    uses, noun = _count(bad, "uses", "use"), _count(hosts, "probe or lifecycle host")
    names = f"{_count(set(bad), 'container')} {_join(sorted(set(bad)))}"
    return Violation("probe or lifecycle host", f"{names} {uses} {noun} {_join(sorted(hosts))}")


def _handler_hosts(container: Object) -> Iterator[str]:
    handlers = [container.get(f) for f in ("livenessProbe", "readinessProbe", "startupProbe")]
    lifecycle = container.get("lifecycle") or {}
    for handler in [*handlers, lifecycle.get("postStart"), lifecycle.get("preStop")]:
        for action in ("httpGet", "tcpSocket"):
            host = ((handler or {}).get(action) or {}).get("host")
            if host:
                yield host


def privileged(pod: Object) -> Violation | None:
    bad = _named(pod, lambda c: bool(_security(c).get("privileged")))
    if not bad:
        return None
    return Violation(
        "privileged", f"{_containers(bad)} must not set securityContext.privileged=true"
    )


def windows_host_process(pod: Object) -> Violation | None:
    def is_bad(holder: Object) -> bool:
        return bool((_security(holder).get("windowsOptions") or {}).get("hostProcess"))

    setters = _setters(is_bad(spec_of(pod)), _named(pod, is_bad))
    if not setters:
        return None
    detail = f"{setters} must not set securityContext.windowsOptions.hostProcess=true"
    return Violation("hostProcess", detail)


def capabilities_baseline(pod: Object) -> Violation | None:
    bad, added = _added_capabilities(pod, _CAPABILITIES)
    if not bad:
        return None
    detail = f"{_containers(bad)} must not include {_join(added)} in securityContext"
    return Violation("non-default capabilities", f"{detail}.capabilities.add")


def _added_capabilities(pod: Object, allowed: Iterable[str]) -> tuple[list[str], list[str]]:
    bad: list[str] = []
    added: set[str] = set()
    for container in containers(pod):
        extra = set((_security(container).get("capabilities") or {}).get("add") or ())
        extra -= set(allowed)
        if extra:
            bad.append(container.get("name", ""))
            added |= extra
    return bad, sorted(added)


def capabilities_restricted(pod: Object) -> Violation | None:
    def keeps_some(container: Object) -> bool:
        return "ALL" not in ((_security(container).get("capabilities") or {}).get("drop") or ())

    keeping = _named(pod, keeps_some)
    bad, added = _added_capabilities(pod, ("NET_BIND_SERVICE",))
    details = []
    if keeping:
        demand = 'must set securityContext.capabilities.drop=["ALL"]'
        details.append(f"{_containers(keeping)} {demand}")
    if bad:
        where = "in securityContext.capabilities.add"
        details.append(f"{_containers(bad)} must not include {_join(added)} {where}")
    return Violation("unrestricted capabilities", "; ".join(details)) if details else None


def proc_mount(pod: Object) -> Violation | None:
    def value(container: Object) -> str:
        return _security(container).get("procMount") or "Default"

    bad = _named(pod, lambda c: value(c) != "Default")
    if not bad:
        return None
    types = sorted({value(c) for c in containers(pod)} - {"Default"})
    detail = f"{_containers(bad)} must not set securityContext.procMount to {_join(types)}"
    return Violation("procMount", detail)


def selinux_options(types: frozenset[str], pod: Object) -> Violation | None:
    bad_types: set[str] = set()
    faults: set[str] = set()

    def is_bad(holder: Object) -> bool:
        options = _security(holder).get("seLinuxOptions") or {}
        kind = options.get("type") or ""
        if kind not in types:
            bad_types.add(kind)
        set_fields = {field for field in ("user", "role") if options.get(field)}
        faults.update(set_fields)
        return kind not in types or bool(set_fields)

    pod_is_bad = is_bad(spec_of(pod))
    setters = _setters(pod_is_bad, _named(pod, is_bad))
    if not setters:
        return None
    data = [f"{_count(bad_types, 'type')} {_join(sorted(bad_types))}"] if bad_types else []
    data += [f"{field} may not be set" for field in ("user", "role") if field in faults]
    detail = f"{setters} set forbidden securityContext.seLinuxOptions: {'; '.join(data)}"
    return Violation("seLinuxOptions", detail)


def _odd_profiles(pod: Object, field: str) -> tuple[str, list[str]]:
    """Who sets a profile of a type that is not one of the harmless ones, and which types."""
    values: set[str] = set()

    def is_bad(holder: Object) -> bool:
        profile = _security(holder).get(field)
        if profile is None or profile.get("type") in _PROFILES:
            return False
        values.add(profile.get("type", ""))
        return True

    pod_is_bad = is_bad(spec_of(pod))
    return _setters(pod_is_bad, _named(pod, is_bad)), sorted(values)


def app_armor_profile(pod: Object) -> Violation | None:
    setter, values = _odd_profiles(pod, "appArmorProfile")
    setters = [setter] if setter else []
    annotations = sorted(
        f"{key}={quoted(value)}"
        for key, value in annotations_of(pod).items()
        if key.startswith(_APPARMOR_ANNOTATION)
        and value not in ("", "runtime/default")
        and not value.startswith("localhost/")
    )
    shown = values + annotations
    if annotations:
        setters.append(_count(annotations, "annotation"))
    if not setters:
        return None
    detail = f"{' and '.join(setters)} must not set AppArmor profile type to {_join(shown)}"
    return Violation(_count(shown, "forbidden AppArmor profile"), detail)


def seccomp_annotations(pod: Object) -> Violation | None:
    """Before 1.19 the profile was told by annotations."""
    keys = [_SECCOMP_POD_ANNOTATION]
    keys += [_SECCOMP_ANNOTATION + container.get("name", "") for container in containers(pod)]
    held = annotations_of(pod)
    bad = sorted(
        {
            f"{key}={quoted(held[key])}"
            for key in keys
            if key in held
            and held[key] not in ("runtime/default", "docker/default")
            and not held[key].startswith("localhost/")
        }
    )
    if not bad:
        return None
    return Violation("seccompProfile", f"forbidden {_count(bad, 'annotation')} {', '.join(bad)}")


def seccomp_profile(demanded: bool, pod: Object) -> Violation | None:
    """`demanded`: every container must have a profile, its own or the pod's."""
    setters, values = _odd_profiles(pod, "seccompProfile")
    if setters:
        what = f"securityContext.seccompProfile.type to {_join(values)}"
        return Violation("seccompProfile", f"{setters} must not set {what}")
    if not demanded or _security(spec_of(pod)).get("seccompProfile") is not None:
        return None
    bare = _named(pod, lambda c: _security(c).get("seccompProfile") is None)
    if not bare:
        return None
    what = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return Violation("seccompProfile", f"pod or {_containers(bare)} {what}")


def sysctls(allowed: frozenset[str], pod: Object) -> Violation | None:
    held = _security(spec_of(pod)).get("sysctls") or ()
    bad = [item.get("name", "") for item in held if item.get("name") not in allowed]
    return Violation("forbidden sysctls", ", ".join(bad)) if bad else None


def allow_privilege_escalation(pod: Object) -> Violation | None:
    bad = _named(pod, lambda c: _security(c).get("allowPrivilegeEscalation") is not False)
    if not bad:
        return None
    detail = f"{_containers(bad)} must set securityContext.allowPrivilegeEscalation=false"
    return Violation("allowPrivilegeEscalation != false", detail)


def restricted_volumes(pod: Object) -> Violation | None:
    bad: list[str] = []
    types: set[str] = set()
    for volume in volumes(pod):
        if any(volume.get(kind) is not None for kind in _RESTRICTED_VOLUMES):
            continue
        bad.append(volume.get("name", ""))
        types.add(next((k for k in _OTHER_VOLUMES if volume.get(k) is not None), "unknown"))
    if not bad:
        return None
    names = f"{_count(bad, 'volume')} {_join(bad)} {_count(bad, 'uses', 'use')}"
    noun = _count(types, "restricted volume type")
    return Violation("restricted volume types", f"{names} {noun} {_join(sorted(types))}")


def run_as_non_root(pod: Object) -> Violation | None:
    of_pod = _security(spec_of(pod)).get("runAsNonRoot")
    refusing = _named(pod, lambda c: _security(c).get("runAsNonRoot") is False)
    setters = _setters(of_pod is False, refusing)
    if setters:
        what = "must not set securityContext.runAsNonRoot=false"
        return Violation("runAsNonRoot != true", f"{setters} {what}")
    bare = _named(pod, lambda c: _security(c).get("runAsNonRoot") is None)
    if of_pod or not bare:
        return None
    what = "must set securityContext.runAsNonRoot=true"
    return Violation("runAsNonRoot != true", f"pod or {_containers(bare)} {what}")


def run_as_user(pod: Object) -> Violation | None:
    def is_root(holder: Object) -> bool:
        return _security(holder).get("runAsUser") == 0

    setters = _setters(is_root(spec_of(pod)), _named(pod, is_root))
    return Violation("runAsUser=0", f"{setters} must not set runAsUser=0") if setters else None


def _unless_windows(check: Check, pod: Object) -> Violation | None:
    """From 1.25 on: what Windows pods cannot set is not demanded of them."""
    if (spec_of(pod).get("os") or {}).get("name") == "windows":
        return None
    return check(pod)


def _unless_user_namespace(check: Check, pod: Object) -> Violation | None:
    """From 1.35 on: root in a user namespace of its own is nobody outside (KEP-127)."""
    return None if spec_of(pod).get("hostUsers") is False else check(pod)


_seccomp_demanded = partial(seccomp_profile, True)

CHECKS = (
    VersionedCheck("appArmorProfile", "baseline", 0, app_armor_profile),
    VersionedCheck("capabilities_baseline", "baseline", 0, capabilities_baseline),
    VersionedCheck("hostNamespaces", "baseline", 0, host_namespaces),
    VersionedCheck("hostPathVolumes", "baseline", 0, host_path_volumes),
    VersionedCheck("hostPorts", "baseline", 0, host_ports),
    VersionedCheck("hostProbesAndHostLifecycle", "baseline", 34, host_probes),
    VersionedCheck("privileged", "baseline", 0, privileged),
    VersionedCheck("procMount", "baseline", 0, proc_mount),
    VersionedCheck("procMount", "baseline", 35, partial(_unless_user_namespace, proc_mount)),
    VersionedCheck("seLinuxOptions", "baseline", 0, partial(selinux_options, _SELINUX_TYPES)),
    VersionedCheck("seLinuxOptions", "baseline", 31, partial(selinux_options, _SELINUX_TYPES_31)),
    VersionedCheck("seccompProfile_baseline", "baseline", 0, seccomp_annotations),
    VersionedCheck("seccompProfile_baseline", "baseline", 19, partial(seccomp_profile, False)),
    VersionedCheck("sysctls", "baseline", 0, partial(sysctls, _SYSCTLS)),
    VersionedCheck("sysctls", "baseline", 27, partial(sysctls, _SYSCTLS_27)),
    VersionedCheck("sysctls", "baseline", 29, partial(sysctls, _SYSCTLS_29)),
    VersionedCheck("sysctls", "baseline", 32, partial(sysctls, _SYSCTLS_32)),
    VersionedCheck("windowsHostProcess", "baseline", 0, windows_host_process),
    VersionedCheck("allowPrivilegeEscalation", "restricted", 8, allow_privilege_escalation),
    VersionedCheck(
        "allowPrivilegeEscalation",
        "restricted",
        25,
        partial(_unless_windows, allow_privilege_escalation),
    ),
    VersionedCheck(
        "capabilities_restricted",
        "restricted",
        22,
        capabilities_restricted,
        "capabilities_baseline",
    ),
    VersionedCheck(
        "capabilities_restricted",
        "restricted",
        25,
        partial(_unless_windows, capabilities_restricted),
        "capabilities_baseline",
    ),
    VersionedCheck("procMount_restricted", "restricted", 35, proc_mount, "procMount"),
    VersionedCheck("restrictedVolumes", "restricted", 0, restricted_volumes, "hostPathVolumes"),
    VersionedCheck("runAsNonRoot", "restricted", 0, run_as_non_root),
    VersionedCheck(
        "runAsNonRoot", "restricted", 35, partial(_unless_user_namespace, run_as_non_root)
    ),
    VersionedCheck("runAsUser", "restricted", 23, run_as_user),
    VersionedCheck("runAsUser", "restricted", 35, partial(_unless_user_namespace, run_as_user)),
    VersionedCheck(
        "seccompProfile_restricted", "restricted", 19, _seccomp_demanded, "seccompProfile_baseline"
    ),
    VersionedCheck(
        "seccompProfile_restricted",
        "restricted",
        25,
        partial(_unless_windows, _seccomp_demanded),
        "seccompProfile_baseline",
    ),
)
"""Each level sorted by id: that is the order in which violations are told."""


def checks_of(level: str, minor: int) -> list[Check]:
    """The checks of a level as version 1.`minor` of the standards has them."""
    held: dict[str, VersionedCheck] = {}
    for entry in CHECKS:
        if entry.since <= minor and (entry.level == "baseline" or level == "restricted"):
            held[entry.id] = entry
    overridden = {entry.overrides for entry in held.values()}
    return [entry.check for entry in held.values() if entry.id not in overridden]

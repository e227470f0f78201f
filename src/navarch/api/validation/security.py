"""Security contexts of pods and containers."""

from __future__ import annotations

import re

from navarch.api import names
from navarch.api.validation.fields import Field
from navarch.api.validation.go_values import shown_as
from navarch.api.validation.volume_sources import check_descending

PROFILES = ("Localhost", "RuntimeDefault", "Unconfined")
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?")
_SYSCTL_TEXT = (
    "must have at most 253 characters and match regex "
    r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
)
_IPC = frozenset({"kernel.sem", "fs.mqueue"})
_MAX_PROFILE = 4095


def check_container_context(context: Field, host_users: bool) -> None:
    _check_ids(context, "runAsUser", "runAsGroup")
    mount = context["procMount"]
    mount.optional_choice(("Default", "Unmasked"))
    if mount.value == "Unmasked" and host_users:
        mount.invalid("`hostUsers` must be false to use `Unmasked`")
    _check_seccomp(context["seccompProfile"])
    _check_app_armor(context["appArmorProfile"])
    if context.get("allowPrivilegeEscalation") is False:
        forbidden = "cannot set `allowPrivilegeEscalation` to false and"
        is_admin = "CAP_SYS_ADMIN" in context["capabilities"]["add"]
        if not is_admin and not context.get("privileged"):
            return
        shown = shown_as(context, "core_v1.SecurityContext")
        if context.get("privileged"):
            shown.invalid(f"{forbidden} `privileged` to true")
        if is_admin:
            shown.invalid(f"{forbidden} `capabilities.Add` CAP_SYS_ADMIN")


def check_pod_context(spec: Field) -> None:
    context = spec["securityContext"]
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        detail = "ShareProcessNamespace and HostPID cannot both be enabled"
        context.at("shareProcessNamespace", True).invalid(detail)
    if not context:
        return
    _check_ids(context, "fsGroup", "runAsUser", "runAsGroup")
    for group in context["supplementalGroups"]:
        group.check(names.user_or_group_id)
    _check_sysctls(spec)
    for field, choices in (
        ("fsGroupChangePolicy", ("Always", "OnRootMismatch")),
        ("supplementalGroupsPolicy", ("Merge", "Strict")),
        ("seLinuxChangePolicy", ("MountOption", "Recursive")),
    ):
        context[field].optional_choice(choices)
    _check_seccomp(context["seccompProfile"])
    _check_app_armor(context["appArmorProfile"])


_NO_WINDOWS = "cannot be set for a windows pod"
_LINUX_POD = (
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
)
_LINUX_CONTAINER = (
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
)


def check_operating_system(spec: Field) -> None:
    """A pod that names its system has no settings of the other one."""
    system, context = spec["os"].get("name"), spec["securityContext"]
    contexts = [
        container["securityContext"]
        for containers in spec.each("containers", "initContainers", "ephemeralContainers")
        for container in containers
    ]
    if system == "linux":
        for field in (each["windowsOptions"] for each in (context, *contexts)):
            if field.is_set:
                field.forbidden("windows options cannot be set for a linux pod")
    elif system == "windows":
        host = [field for field in spec.each("hostPID", "hostIPC") if field]
        host += [field for field in spec.each("hostUsers", "shareProcessNamespace") if field.is_set]
        settings = [*context.each(*_LINUX_POD), *host]
        for each in contexts:
            settings += each.each(*_LINUX_CONTAINER)
        for field in settings:
            if field.is_set:
                field.forbidden(_NO_WINDOWS)


def _check_ids(context: Field, *fields: str) -> None:
    for field in context.each(*fields):
        field.check_if_set(names.user_or_group_id)


def _check_sysctls(spec: Field) -> None:
    seen: set[str] = set()
    for sysctl in spec["securityContext"]["sysctls"]:
        name = sysctl.text("name")
        if not name:
            name.required()
        elif len(name) > 253 or not _SYSCTL.fullmatch(name.value):
            name.invalid(_SYSCTL_TEXT)
        elif name.value in seen:
            name.duplicate()
        seen.add(name.value)
        plain = name.value.replace("/", ".")
        if spec.get("hostNetwork") and plain.startswith("net."):
            name.invalid("may not be specified when 'hostNetwork' is true")
        ipc = plain.startswith(("kernel.shm", "kernel.msg", "fs.mqueue.")) or plain in _IPC
        if spec.get("hostIPC") and ipc:
            name.invalid("may not be specified when 'hostIPC' is true")


def _check_seccomp(profile: Field) -> None:
    if not profile.is_set:
        return
    kind, file = profile["type"], profile["localhostProfile"]
    kind.present("type is required when seccompProfile is set")
    if kind:
        kind.optional_choice(PROFILES)
    if kind.value == "Localhost":
        file.must_be_set("must be set when seccomp type is Localhost")
        check_descending(file)
    elif file.is_set:
        shown = shown_as(profile, "core_v1.SeccompProfile")
        file.showing(shown.value).invalid("can only be set when seccomp type is Localhost")


def _check_app_armor(profile: Field) -> None:
    if not profile.is_set:
        return
    kind, name = profile["type"], profile["localhostProfile"]
    if kind.value == "Localhost":
        if not name:
            name.required("must be set when AppArmor type is Localhost")
        elif name.value != name.value.strip():
            name.invalid("must not be padded with whitespace")
        name.no_longer(_MAX_PROFILE)
    elif not kind:
        kind.required("type is required when appArmorProfile is set")
    elif kind.value not in PROFILES:
        kind.not_supported(PROFILES)
    elif name.is_set:
        name.invalid("can only be set when AppArmor type is Localhost")


def check_host_users(spec: Field) -> None:
    """A pod in its own user namespace cannot share the host's others."""
    if spec.get("hostUsers") is not False:
        return
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            shown = field if field == "hostNetwork" else field[0].upper() + field[1:]
            spec[shown].forbidden("when `hostUsers` is false")
    for containers in spec.each("initContainers", "containers", "ephemeralContainers"):
        for container in containers:
            if devices := container["volumeDevices"]:
                devices.forbidden("when `hostUsers` is false")

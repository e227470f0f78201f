"""Security contexts of pods and containers."""

from __future__ import annotations

import re

from navarch.api import names
from navarch.api.validation.common import Errors, Object, indexed

PROFILES = ("Localhost", "RuntimeDefault", "Unconfined")
_SYSCTL = re.compile(r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?")
_SYSCTL_TEXT = (
    "must have at most 253 characters and match regex "
    r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
)
_IPC = frozenset({"kernel.sem", "fs.mqueue"})
_MAX_PROFILE = 4095


def check_container_context(errors: Errors, path: str, context: Object, host_users: bool) -> None:
    _check_ids(errors, path, context, ("runAsUser", "runAsGroup"))
    mount = context.get("procMount")
    errors.optional_choice(f"{path}.procMount", mount, ("Default", "Unmasked"))
    if mount == "Unmasked" and host_users:
        errors.invalid(f"{path}.procMount", mount, "`hostUsers` must be false to use `Unmasked`")
    _check_profiles(errors, path, context)
    if context.get("allowPrivilegeEscalation") is False:
        forbidden = "cannot set `allowPrivilegeEscalation` to false and"
        if context.get("privileged"):
            errors.invalid(path, context, f"{forbidden} `privileged` to true")
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
            errors.invalid(path, context, f"{forbidden} `capabilities.Add` CAP_SYS_ADMIN")


def check_pod_context(errors: Errors, path: str, spec: Object) -> None:
    context = spec.get("securityContext") or {}
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        detail = "ShareProcessNamespace and HostPID cannot both be enabled"
        errors.invalid(f"{path}.shareProcessNamespace", True, detail)
    if not context:
        return
    _check_ids(errors, path, context, ("fsGroup", "runAsUser", "runAsGroup"))
    for here, group in indexed(f"{path}.supplementalGroups", context.get("supplementalGroups")):
        errors.check(here, group, names.user_or_group_id)
    if context.get("sysctls"):
        _check_sysctls(errors, f"{path}.sysctls", spec)
    for field, choices in (
        ("fsGroupChangePolicy", ("Always", "OnRootMismatch")),
        ("supplementalGroupsPolicy", ("Merge", "Strict")),
        ("seLinuxChangePolicy", ("MountOption", "Recursive")),
    ):
        errors.optional_choice(f"{path}.{field}", context.get(field), choices)
    _check_profiles(errors, path, context)


def _check_ids(errors: Errors, path: str, context: Object, fields: tuple[str, ...]) -> None:
    for field in fields:
        value = context.get(field)
        if value is not None:
            errors.check(f"{path}.{field}", value, names.user_or_group_id)


def _check_sysctls(errors: Errors, path: str, spec: Object) -> None:
    seen: set[str] = set()
    for index, sysctl in enumerate(spec["securityContext"]["sysctls"]):
        here, name = f"{path}[{index}].name", sysctl.get("name") or ""
        if not name:
            errors.required(here)
        elif len(name) > 253 or not _SYSCTL.fullmatch(name):
            errors.invalid(here, name, _SYSCTL_TEXT)
        elif name in seen:
            errors.duplicate(here, name)
        seen.add(name)
        plain = name.replace("/", ".")
        if spec.get("hostNetwork") and plain.startswith("net."):
            errors.invalid(here, name, "may not be specified when 'hostNetwork' is true")
        ipc = plain.startswith(("kernel.shm", "kernel.msg", "fs.mqueue.")) or plain in _IPC
        if spec.get("hostIPC") and ipc:
            errors.invalid(here, name, "may not be specified when 'hostIPC' is true")


def _check_profiles(errors: Errors, path: str, context: Object) -> None:
    if context.get("seccompProfile") is not None:
        _check_seccomp(errors, f"{path}.seccompProfile", context["seccompProfile"])
    if context.get("appArmorProfile") is not None:
        _check_app_armor(errors, f"{path}.appArmorProfile", context["appArmorProfile"])


def _check_seccomp(errors: Errors, path: str, profile: Object) -> None:
    kind, file = profile.get("type"), profile.get("localhostProfile")
    errors.present(f"{path}.type", kind, "type is required when seccompProfile is set")
    errors.optional_choice(f"{path}.type", kind or None, PROFILES)
    here = f"{path}.localhostProfile"
    if kind == "Localhost":
        if not file:
            errors.required(here, "must be set when seccomp type is Localhost")
        elif file.startswith("/"):
            errors.invalid(here, file, "must be a relative path")
        if file and ".." in file.split("/"):
            errors.invalid(here, file, "must not contain '..'")
    elif file is not None:
        errors.invalid(here, profile, "can only be set when seccomp type is Localhost")


def _check_app_armor(errors: Errors, path: str, profile: Object) -> None:
    kind, name = profile.get("type"), profile.get("localhostProfile")
    here = f"{path}.localhostProfile"
    if kind == "Localhost":
        if name is None or (not name.strip() and name == name.strip()):
            errors.required(here, "must be set when AppArmor type is Localhost")
        elif name != name.strip():
            errors.invalid(here, name, "must not be padded with whitespace")
        if name and len(name) > _MAX_PROFILE:
            errors.too_long(here, _MAX_PROFILE)
    elif not kind:
        errors.required(f"{path}.type", "type is required when appArmorProfile is set")
    elif kind in PROFILES:
        if name is not None:
            errors.invalid(here, name, "can only be set when AppArmor type is Localhost")
    else:
        errors.optional_choice(f"{path}.type", kind, PROFILES)


def check_host_users(errors: Errors, path: str, spec: Object) -> None:
    """A pod in its own user namespace cannot share the host's others."""
    if spec.get("hostUsers") is not False:
        return
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            shown = field if field == "hostNetwork" else field[0].upper() + field[1:]
            errors.forbidden(f"{path}.{shown}", "when `hostUsers` is false")
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            if container.get("volumeDevices"):
                here = f"{path}.{kind}[{index}].volumeDevices"
                errors.forbidden(here, "when `hostUsers` is false")

"""Who a container's processes are and what they may do, as the runtime is told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from navarch.api.types.core_v1 import (
    AppArmorProfile,
    Pod,
    PodSecurityContext,
    SeccompProfile,
    SecurityContext,
    SELinuxOptions,
)

from .cri import runtime_pb2 as pb
from .cri.values import ImageRecord
from .podspec import ContainerSpec, containers_of, full_name

T = TypeVar("T")

MAXIMUM_ID = 2**31 - 1

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_PROFILES = {
    "RuntimeDefault": pb.SecurityProfile.RuntimeDefault,
    "Unconfined": pb.SecurityProfile.Unconfined,
    "Localhost": pb.SecurityProfile.Localhost,
}


class ConfigProblem(Exception):
    """The specification cannot become a container: it waits with CreateContainerConfigError."""


@dataclass(frozen=True)
class NodeSecurity:
    """What the node adds to what pods say."""

    seccomp_directory: Path = Path("/var/lib/kubelet/seccomp")
    """Where profiles of type Localhost lie."""
    seccomp_default: bool = False
    """Whether RuntimeDefault, not Unconfined, is the profile of those who name none."""
    masked_paths: Sequence[str] = MASKED_PATHS
    apparmor: bool = True
    """Whether the kernel enforces profiles of AppArmor."""


def apparmor_enabled(sys: Path = Path("/sys")) -> bool:
    """Looked up once: a kernel does not change its mind."""
    try:
        enabled = (sys / "module/apparmor/parameters/enabled").read_text().startswith("Y")
    except OSError:
        return False
    return enabled and (sys / "kernel/security/apparmor").exists()


def masked_paths(sys: Path = Path("/sys")) -> tuple[str, ...]:
    """Every processor's throttling counters tell a neighbour's load, where the machine has any."""
    found = sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle")
    return (*MASKED_PATHS, *sorted(map(str, found)))


@dataclass(frozen=True)
class SecurityInputs:
    """What the security context of one container is made of."""

    pod: Pod
    spec: ContainerSpec
    image: ImageRecord
    node: NodeSecurity
    users: pb.UserNamespace | None = None
    target_id: str = ""
    """The running container whose process namespace an ephemeral container joins."""


def namespaces(pod: Pod, users: pb.UserNamespace | None) -> pb.NamespaceOption:
    """Which namespaces are the pod's own, and which it shares with the node."""
    spec = pod.spec
    pid = pb.CONTAINER
    if spec.hostPID:
        pid = pb.NODE
    elif spec.shareProcessNamespace:
        pid = pb.POD
    return pb.NamespaceOption(
        network=pb.NODE if spec.hostNetwork else pb.POD,
        ipc=pb.NODE if spec.hostIPC else pb.POD,
        pid=pid,
        userns_options=users,
    )


def groups(context: PodSecurityContext) -> list[int]:
    groups = [] if context.fsGroup is None else [context.fsGroup]
    return list(dict.fromkeys([*groups, *context.supplementalGroups]))


def groups_policy(context: PodSecurityContext) -> pb.SupplementalGroupsPolicy:
    return pb.Strict if context.supplementalGroupsPolicy == "Strict" else pb.Merge


def container_security(inputs: SecurityInputs) -> pb.LinuxContainerSecurityContext:
    pod, container = inputs.pod, inputs.spec.container
    whole = pod.spec.securityContext or PodSecurityContext()
    own = container.securityContext or SecurityContext()
    options = namespaces(pod, inputs.users)
    if inputs.target_id:
        options.pid, options.target_id = pb.TARGET, inputs.target_id
    privileged = bool(own.privileged)
    result = pb.LinuxContainerSecurityContext(
        privileged=privileged,
        namespace_options=options,
        readonly_rootfs=bool(own.readOnlyRootFilesystem),
        supplemental_groups=groups(whole),
        supplemental_groups_policy=groups_policy(whole),
        no_new_privs=own.allowPrivilegeEscalation is False,
        seccomp=_seccomp(own.seccompProfile or whole.seccompProfile, inputs.node),
        apparmor=_apparmor(own.appArmorProfile or whole.appArmorProfile),
    )
    if own.capabilities is not None:
        result.capabilities.add_capabilities.extend(own.capabilities.add)
        result.capabilities.drop_capabilities.extend(own.capabilities.drop)
    if own.procMount != "Unmasked" and not privileged:
        result.masked_paths.extend(inputs.node.masked_paths)
        result.readonly_paths.extend(READ_ONLY_PATHS)
    selinux = own.seLinuxOptions or whole.seLinuxOptions
    if selinux is not None:
        result.selinux_options.CopyFrom(selinux_options(selinux))
    user = _first(own.runAsUser, whole.runAsUser)
    group = _first(own.runAsGroup, whole.runAsGroup)
    _check_non_root(inputs, user, _first(own.runAsNonRoot, whole.runAsNonRoot))
    if user is None and inputs.image.uid is not None:
        user = inputs.image.uid
    if user is not None:
        result.run_as_user.value = user
    elif inputs.image.username:
        result.run_as_username = inputs.image.username
    if group is not None:
        result.run_as_group.value = group
    return result


def _first(own: T | None, inherited: T | None) -> T | None:
    return inherited if own is None else own


def _check_non_root(inputs: SecurityInputs, user: int | None, required: bool | None) -> None:
    if not required:
        return
    where = f'(pod: "{full_name(inputs.pod)}", container: {inputs.spec.name})'
    if user is not None:
        if user == 0:
            raise ConfigProblem(f"container's runAsUser breaks non-root policy {where}")
        return
    if inputs.image.username and inputs.image.uid is None:
        raise ConfigProblem(
            "container has runAsNonRoot and image has non-numeric user "
            f"({inputs.image.username}), cannot verify user is non-root {where}"
        )
    uid = inputs.image.uid or 0
    if uid == 0:
        raise ConfigProblem(f"container has runAsNonRoot and image will run as root {where}")
    if not 0 < uid <= MAXIMUM_ID:
        raise ConfigProblem(
            f"container has runAsNonRoot and image has an invalid user id ({uid}). (Must be "
            f"1-({MAXIMUM_ID})): must be between 0 and {MAXIMUM_ID}, inclusive {where}"
        )


def _seccomp(profile: SeccompProfile | None, node: NodeSecurity) -> pb.SecurityProfile:
    if profile is None:
        kind = "RuntimeDefault" if node.seccomp_default else "Unconfined"
        profile = SeccompProfile(type=kind)
    if profile.type == "Localhost":
        if not profile.localhostProfile:
            raise ConfigProblem("localhostProfile must be set if seccompProfile type is Localhost.")
        return pb.SecurityProfile(
            profile_type=pb.SecurityProfile.Localhost,
            localhost_ref=str(node.seccomp_directory / profile.localhostProfile),
        )
    return pb.SecurityProfile(profile_type=_PROFILES[profile.type])


def _apparmor(profile: AppArmorProfile | None) -> pb.SecurityProfile | None:
    if profile is None:
        return None
    name = ""
    if profile.type == "Localhost":
        if not profile.localhostProfile:
            raise ConfigProblem("missing localhost apparmor profile name")
        name = profile.localhostProfile
    return pb.SecurityProfile(profile_type=_PROFILES[profile.type], localhost_ref=name)


def requires_apparmor(pod: Pod) -> bool:
    """Whether some process of the pod is to be confined by a profile."""
    spec = pod.spec
    contexts = [each.container.securityContext for each in containers_of(pod)]
    profiles = [each.appArmorProfile for each in contexts if each is not None]
    if spec.securityContext is not None:
        profiles.append(spec.securityContext.appArmorProfile)
    return any(each is not None and each.type != "Unconfined" for each in profiles)


def selinux_options(options: SELinuxOptions) -> pb.SELinuxOption:
    return pb.SELinuxOption(
        user=options.user, role=options.role, type=options.type, level=options.level
    )

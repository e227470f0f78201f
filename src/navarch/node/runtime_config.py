"""What the runtime is told to make: the sandbox and container configurations of a pod. Pure.

Everything that has to be looked up, written or mounted first is handed in; the result is the
interface's message, which prints as text, so that tests compare it as it would be sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from navarch.api.types.core_v1 import Container, Pod, PodSecurityContext

from .cri import runtime_pb2 as pb
from .cri.values import (
    CONTAINER_HASH,
    CONTAINER_NAME,
    IMAGE_VOLUMES,
    POD_NAME,
    POD_NAMESPACE,
    POD_TERMINATION_GRACE,
    POD_UID,
    RESTART_COUNT,
    TERMINATION_PATH,
    TERMINATION_POLICY,
    ImageRecord,
)
from .environment import expand, unresolved
from .netfiles import DnsSettings
from .orphans import notes
from .podspec import ContainerSpec, container_hash, pod_hostname
from .resize import RESOURCES_ANNOTATION, encode_resources, wanted_resources
from .resources import NodeResources, ResourcePolicy, container_resources, sandbox_size
from .security_context import (
    ConfigProblem,
    NodeSecurity,
    SecurityInputs,
    container_security,
    groups,
    groups_policy,
    namespaces,
    selinux_options,
)
from .sysctls import normalized
from .volumes.mounting import volume_devices, volume_mounts
from .volumes.plugin import PreparedVolume

DEFAULT_TERMINATION_PATH = "/dev/termination-log"

_PROTOCOLS = {"TCP": pb.TCP, "UDP": pb.UDP, "SCTP": pb.SCTP}


def log_directory(root: Path, namespace: str, name: str, uid: str) -> Path:
    """Where a pod's log files lie: `<root>/<namespace>_<pod>_<uid>`, as log collectors expect."""
    return root / f"{namespace}_{name}_{uid}"


def log_file(container: str, attempt: int) -> str:
    """A container instance's log, relative to the pod's log directory."""
    return f"{container}/{attempt}.log"


@dataclass(frozen=True)
class SandboxPlace:
    """Where on the node a sandbox belongs."""

    log_root: Path
    cgroup_parent: str
    users: pb.UserNamespace | None = None
    """The pod's own range of ids, if it has one."""
    policy: ResourcePolicy = field(default_factory=ResourcePolicy)


def sandbox_config(
    pod: Pod, attempt: int, dns: DnsSettings, place: SandboxPlace
) -> pb.PodSandboxConfig:
    """The namespaces, network and identity all containers of the pod share."""
    meta, spec = pod.metadata, pod.spec
    context = spec.securityContext or PodSecurityContext()
    security = pb.LinuxSandboxSecurityContext(
        namespace_options=namespaces(pod, place.users),
        supplemental_groups=groups(context),
        supplemental_groups_policy=groups_policy(context),
        privileged=any(
            each.securityContext is not None and bool(each.securityContext.privileged)
            for each in (*spec.initContainers, *spec.containers)
        ),
        # The pause process needs nothing: it always gets the runtime's own profile.
        seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
    )
    if context.runAsUser is not None:
        security.run_as_user.value = context.runAsUser
    if context.runAsGroup is not None and context.runAsUser is not None:
        security.run_as_group.value = context.runAsGroup
    if context.seLinuxOptions is not None:
        security.selinux_options.CopyFrom(selinux_options(context.seLinuxOptions))
    size = sandbox_size(pod, place.policy)
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=meta.name, uid=meta.uid, namespace=meta.namespace, attempt=attempt
        ),
        # Without a network of its own a pod has the node's UTS namespace, which keeps its name.
        hostname="" if spec.hostNetwork else pod_hostname(pod),
        log_directory=str(log_directory(place.log_root, meta.namespace, meta.name, meta.uid)),
        dns_config=pb.DNSConfig(servers=dns.servers, searches=dns.searches, options=dns.options),
        labels={**meta.labels, **_identity(pod)},
        annotations=meta.annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=place.cgroup_parent,
            security_context=security,
            sysctls={normalized(each.name): each.value for each in context.sysctls},
            resources=size.resources,
            overhead=size.overhead,
        ),
    )
    if not spec.hostNetwork:
        config.port_mappings.extend(_port_mappings(pod))
    return config


def _port_mappings(pod: Pod) -> list[pb.PortMapping]:
    return [
        pb.PortMapping(
            protocol=_PROTOCOLS[port.protocol or "TCP"],
            container_port=port.containerPort,
            host_port=port.hostPort,
            host_ip=port.hostIP,
        )
        for container in (*pod.spec.initContainers, *pod.spec.containers)
        for port in container.ports
        if port.hostPort
    ]


def _identity(pod: Pod) -> dict[str, str]:
    meta = pod.metadata
    return {POD_NAME: meta.name, POD_NAMESPACE: meta.namespace, POD_UID: meta.uid}


@dataclass(frozen=True)
class ContainerInputs:
    """Everything a container configuration is made of."""

    pod: Pod
    spec: ContainerSpec
    attempt: int
    image: ImageRecord
    image_reference: str
    variables: Mapping[str, str]
    node: NodeResources
    volumes: Mapping[str, PreparedVolume] = field(default_factory=dict)
    subpaths: Mapping[int, Path] = field(default_factory=dict)
    """What the mounts (by number) with a subPath are to show."""
    recursive_read_only: bool = False
    """Whether the runtime can make what is mounted below a mount read-only, too."""
    hosts_file: Path | None = None
    termination_log: Path | None = None
    security: NodeSecurity = field(default_factory=NodeSecurity)
    users: pb.UserNamespace | None = None
    """The pod's own range of ids, if it has one."""
    target_id: str = ""
    """The running container whose process namespace an ephemeral container joins."""


def container_config(inputs: ContainerInputs) -> pb.ContainerConfig:
    """One instance of one container."""
    pod, container = inputs.pod, inputs.spec.container
    variables = inputs.variables
    # An explicit command replaces the image's entrypoint and its default arguments.
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=container.name, attempt=inputs.attempt),
        image=pb.ImageSpec(image=inputs.image.id, user_specified_image=inputs.image_reference),
        command=[expand(each, variables) for each in container.command],
        args=[expand(each, variables) for each in container.args],
        working_dir=container.workingDir,
        envs=[
            pb.KeyValue(key=name, value=value.encode("utf-8", "surrogateescape"))
            for name, value in variables.items()
        ],
        mounts=_mounts(inputs),
        devices=volume_devices(container, inputs.volumes),
        labels={**_identity(pod), CONTAINER_NAME: container.name},
        annotations={
            CONTAINER_HASH: container_hash(container),
            RESOURCES_ANNOTATION: encode_resources(wanted_resources(container, pod.spec.resources)),
            RESTART_COUNT: str(inputs.attempt),
            TERMINATION_PATH: container.terminationMessagePath or DEFAULT_TERMINATION_PATH,
            TERMINATION_POLICY: container.terminationMessagePolicy or "File",
            POD_TERMINATION_GRACE: str(pod.spec.terminationGracePeriodSeconds or 0),
            **_image_volumes(inputs),
            **notes(container),
        },
        log_path=log_file(container.name, inputs.attempt),
        stdin=container.stdin,
        stdin_once=container.stdinOnce,
        tty=container.tty,
        linux=pb.LinuxContainerConfig(
            resources=container_resources(pod, container, inputs.node),
            security_context=container_security(
                SecurityInputs(
                    pod, inputs.spec, inputs.image, inputs.security, inputs.users, inputs.target_id
                )
            ),
        ),
    )
    return config


def _image_volumes(inputs: ContainerInputs) -> dict[str, str]:
    """Which images the container's image volumes are, for its status: a later one may have the
    name that was asked for."""
    images = {name: volume.image_id for name, volume in inputs.volumes.items() if volume.image_id}
    mounted = {each.name for each in inputs.spec.container.volumeMounts}
    used = {name: image for name, image in images.items() if name in mounted}
    return {IMAGE_VOLUMES: json.dumps(used, sort_keys=True)} if used else {}


def _mounts(inputs: ContainerInputs) -> list[pb.Mount]:
    container = inputs.spec.container
    mounts = volume_mounts(
        container, inputs.volumes, inputs.subpaths, recursive_read_only=inputs.recursive_read_only
    )
    taken = {each.container_path for each in mounts}
    if inputs.hosts_file is not None and "/etc/hosts" not in taken:
        mounts.append(pb.Mount(container_path="/etc/hosts", host_path=str(inputs.hosts_file)))
    if inputs.termination_log is not None:
        path = container.terminationMessagePath or DEFAULT_TERMINATION_PATH
        mounts.append(pb.Mount(container_path=path, host_path=str(inputs.termination_log)))
    if inputs.users is not None:
        # Files belong to whom they belong to in the pod's eyes, whatever its ids are outside.
        for mount in mounts:
            mount.uidMappings.extend(inputs.users.uids)
            mount.gidMappings.extend(inputs.users.gids)
    return mounts


def subpaths(container: Container, variables: Mapping[str, str]) -> dict[int, str]:
    """The mounts (by number) that show a part of their volume, with references replaced."""
    result = {}
    for number, mount in enumerate(container.volumeMounts):
        path = mount.subPath
        if mount.subPathExpr:
            missing = unresolved(mount.subPathExpr, variables)
            if missing:
                raise ConfigProblem(f"missing value for {missing[0]!r}".replace("'", '"'))
            path = expand(mount.subPathExpr, variables)
        if not path:
            continue
        if path.startswith("/"):
            raise ConfigProblem(f"error SubPath `{path}` must not be an absolute path")
        if ".." in PurePosixPath(path).parts:
            raise ConfigProblem(f"unable to provision SubPath `{path}`: must not contain '..'")
        result[number] = path
    return result

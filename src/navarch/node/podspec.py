"""Questions about a pod's specification that several parts of the node agent ask. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import msgspec

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Container, EphemeralContainer, Pod, ResourceRequirements

CONFIG_SOURCE = "kubernetes.io/config.source"
CONFIG_HASH = "kubernetes.io/config.hash"
CONFIG_MIRROR = "kubernetes.io/config.mirror"

DEFAULT_GRACE_SECONDS = 30
MINIMUM_GRACE_SECONDS = 2
"""What a container always gets between the stop signal and SIGKILL, hooks or not."""

SYSTEM_CRITICAL_PRIORITY = 2_000_000_000


class ContainerKind(Enum):
    """The three lists of a pod's containers; sidecars are init containers that keep running."""

    INIT = "initContainers"
    SIDECAR = "sidecar"
    APP = "containers"
    EPHEMERAL = "ephemeralContainers"


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container of a pod and which role it plays."""

    kind: ContainerKind
    container: Container
    target: str = ""
    """For an ephemeral container: the container whose processes it wants to see."""
    index: int = 0

    @property
    def name(self) -> str:
        return self.container.name

    @property
    def field_path(self) -> str:
        """Where the container stands in the pod, as events point at it."""
        group = "initContainers" if self.kind is ContainerKind.SIDECAR else self.kind.value
        return f"spec.{group}{{{self.container.name}}}"


def is_sidecar(container: Container) -> bool:
    """An init container that starts in order but runs for the pod's whole life."""
    return container.restartPolicy == "Always"


def containers_of(pod: Pod) -> list[ContainerSpec]:
    """All containers of the pod: init (and sidecars) in order, app, ephemeral."""
    result = [
        ContainerSpec(ContainerKind.SIDECAR if is_sidecar(each) else ContainerKind.INIT, each)
        for each in pod.spec.initContainers
    ]
    result += [ContainerSpec(ContainerKind.APP, each) for each in pod.spec.containers]
    result += [
        ContainerSpec(ContainerKind.EPHEMERAL, _plain(each), each.targetContainerName)
        for each in pod.spec.ephemeralContainers
    ]
    return result


def _plain(container: EphemeralContainer) -> Container:
    fields = {name: getattr(container, name) for name in container.__struct_fields__}
    fields.pop("targetContainerName")
    return Container(**fields)


def find_container(pod: Pod, name: str) -> ContainerSpec | None:
    return next((each for each in containers_of(pod) if each.name == name), None)


def full_name(pod: Pod) -> str:
    """`name_namespace(uid)`, as upstream's messages name a pod."""
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"


def pod_key(pod: Pod) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def container_hash(container: Container) -> str:
    """Changes when the running instance no longer does what the specification says.

    Only the image can be updated in place; everything else that may change (resources) is applied
    to the running container, and what labels or defaults an upgrade adds must restart nothing.
    """
    return f"{zlib.crc32(msgspec.json.encode([container.name, container.image])):x}"


def pod_hostname(pod: Pod) -> str:
    """The host name inside the pod: at most 63 characters, as the kernel and DNS want it."""
    name = pod.spec.hostnameOverride or pod.spec.hostname or pod.metadata.name
    return name[:63].rstrip("-.")


def pod_domain(pod: Pod, cluster_domain: str) -> str:
    """The pod's own domain when it is published under a headless Service's name."""
    if pod.spec.hostnameOverride or not pod.spec.subdomain:
        return ""
    return f"{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"


def termination_grace(pod: Pod) -> int:
    """Seconds the pod's containers have to stop: the deletion's if it is being deleted."""
    if pod.metadata.deletionGracePeriodSeconds is not None:
        return max(pod.metadata.deletionGracePeriodSeconds, 1)
    if pod.spec.terminationGracePeriodSeconds is not None:
        return pod.spec.terminationGracePeriodSeconds
    return DEFAULT_GRACE_SECONDS


def is_terminal(pod: Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def is_static(pod: Pod) -> bool:
    """The pod comes from this node's own manifest directory, not from the API."""
    source = pod.metadata.annotations.get(CONFIG_SOURCE, "api")
    return source != "api"


def is_mirror(pod: Pod) -> bool:
    """The API's copy of a static pod."""
    return CONFIG_MIRROR in pod.metadata.annotations


def is_critical(pod: Pod) -> bool:
    return is_static(pod) or (pod.spec.priority or 0) >= SYSTEM_CRITICAL_PRIORITY


_QOS_RESOURCES = ("cpu", "memory")


def qos_class(pod: Pod) -> str:
    """Guaranteed, Burstable or BestEffort; what was recorded at creation stays."""
    return pod.status.qosClass or compute_qos_class(pod)


def compute_qos_class(pod: Pod) -> str:
    """Guaranteed: limits equal requests for cpu and memory everywhere; BestEffort: none at all."""
    guaranteed = True
    anything = False
    for resources in _all_resources(pod):
        for name in _QOS_RESOURCES:
            request, limit = resources.requests.get(name), resources.limits.get(name)
            requested = request is not None and not _is_zero(request)
            limited = limit is not None and not _is_zero(limit)
            anything |= requested or limited
            if (
                not limited
                or limit is None
                or (request is not None and parse_quantity(request) != parse_quantity(limit))
            ):
                guaranteed = False
    if not anything:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _all_resources(pod: Pod) -> Iterator[ResourceRequirements]:
    whole = pod.spec.resources
    if whole is not None and (whole.limits or whole.requests):
        yield whole
        return
    for each in (*pod.spec.initContainers, *pod.spec.containers):
        yield each.resources


def _is_zero(text: str) -> bool:
    return parse_quantity(text).milli_value() == 0


RESTART, RESTART_ALL = "Restart", "RestartAllContainers"


def restart_rule(container: Container, exit_code: int) -> str:
    """The action of the first of the container's rules that covers an exit (KEP-5307, KEP-5532)."""
    for rule in container.restartPolicyRules:
        codes = rule.exitCodes
        wanted = {"In": True, "NotIn": False}.get(codes.operator) if codes is not None else None
        if codes is not None and (exit_code in codes.values) is wanted:
            return rule.action
    return ""


def may_restart_all(pod: Pod) -> bool:
    """Whether an exit of some container would restart the whole pod in place."""
    return any(
        rule.action == RESTART_ALL
        for each in (*pod.spec.initContainers, *pod.spec.containers)
        for rule in each.restartPolicyRules
    )


def should_restart(pod: Pod, spec: ContainerSpec, exit_code: int) -> bool:
    """Whether an exit asks for a new instance: the container's own rules and policy, then the
    pod's. Rules count only beside a policy of the container's own, as the API demands."""
    if spec.kind is ContainerKind.EPHEMERAL:
        return False
    if spec.kind is ContainerKind.INIT and exit_code == 0:
        return False  # it has done its work
    own = spec.container.restartPolicy
    if own and restart_rule(spec.container, exit_code) in (RESTART, RESTART_ALL):
        return True
    policy = own or pod.spec.restartPolicy or "Always"
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)

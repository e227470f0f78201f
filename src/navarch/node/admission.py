"""May this pod run on this node at all? The node's own check, for pods that passed no scheduler.

A pod that is refused is Failed with a reason and never starts. The reasons and texts are upstream's
(`pkg/kubelet/lifecycle/predicate.go`, `pkg/kubelet/sysctl`). Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from navarch.api.node_selection import may_be_on, tolerates
from navarch.api.types.core_v1 import Pod, Taint

from .podspec import is_static
from .resources import NodeResources, pod_requests
from .security_context import requires_apparmor
from .sysctls import forbidden

AFFINITY, TAINT = "NodeAffinity", "TaintToleration"
"""Reasons, named like the scheduler's plug-ins that judge the same."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod is not taken."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Lacking(Refusal):
    """A pod is not taken for want of a resource, which other pods may be made to give back."""

    resource: str = ""
    amount: int = 0


@dataclass(frozen=True)
class NodeView:
    """What the check knows of the node."""

    name: str
    labels: Mapping[str, str]
    taints: Sequence[Taint]
    resources: NodeResources
    allowed_sysctls: Sequence[str] = ()
    others: Mapping[str, int] = field(default_factory=dict)
    """Allocatable devices, other extended resources and huge pages. An extended resource that is
    not here belongs to the cluster, not to the node, and is not checked."""
    has_strict_groups: bool = True
    """Whether the runtime can keep a container's groups to those of the pod's specification."""
    has_apparmor: bool = True
    """Whether the kernel enforces profiles of AppArmor."""


HostPort = tuple[str, str, int]
"""Protocol, address (empty for all of them) and number."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the active pods of a node take of it."""

    pods: int
    requests: Mapping[str, int]
    ports: Collection[HostPort]


def load_of(pods: Sequence[Pod]) -> Load:
    used: dict[str, int] = {}
    for pod in pods:
        for name, value in pod_requests(pod).items():
            used[name] = used.get(name, 0) + value
    return Load(len(pods), used, {port for pod in pods for port in host_ports(pod)})


def admit(pod: Pod, others: Iterable[Pod], node: NodeView) -> Refusal | None:
    """None if the pod may run beside `others`, the active pods of the node."""
    return next(iter(problems(pod, load_of([*others]), node)), None)


def problems(pod: Pod, load: Load, node: NodeView) -> list[Refusal]:
    """Everything that speaks against the pod; what no preemption can help stands alone."""
    final = (
        _check_sysctls(pod, node)
        or _check_os(pod)
        or _check_groups(pod, node)
        or _check_apparmor(pod, node)
    )
    if final is not None:
        return [final]
    return [
        *_check_resources(pod, load, node),
        *filter(
            None, (_check_selectors(pod, node), _check_ports(pod, load), _check_taints(pod, node))
        ),
    ]


def rests_on_object(refusal: Refusal) -> bool:
    """Whether somebody may have changed the node's object so that the pod is welcome by now."""
    if isinstance(refusal, Lacking):
        return refusal.resource not in ("pods", "cpu", "memory", "ephemeral-storage")
    return refusal.reason in (AFFINITY, TAINT)


def _check_os(pod: Pod) -> Refusal | None:
    if pod.metadata.labels.get("kubernetes.io/os", "linux") != "linux":
        return Refusal(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        )
    if pod.spec.os is not None and pod.spec.os.name != "linux":
        return Refusal(
            "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
        )
    return None


def _check_groups(pod: Pod, node: NodeView) -> Refusal | None:
    context = pod.spec.securityContext
    strict = context is not None and context.supplementalGroupsPolicy == "Strict"
    if not strict or node.has_strict_groups:
        return None
    return Refusal(
        "SupplementalGroupsPolicyNotSupported",
        "SupplementalGroupsPolicy=Strict is not supported in this node",
    )


def _check_sysctls(pod: Pod, node: NodeView) -> Refusal | None:
    problem = forbidden(pod, node.allowed_sysctls)
    return Refusal("SysctlForbidden", f"forbidden sysctl: {problem}") if problem else None


def _check_apparmor(pod: Pod, node: NodeView) -> Refusal | None:
    if node.has_apparmor or not requires_apparmor(pod):
        return None
    return Refusal("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host")


def _check_resources(pod: Pod, load: Load, node: NodeView) -> list[Lacking]:
    result = []
    if load.pods + 1 > node.resources.pods:
        result.append(_lacking("pods", 1, load.pods, node.resources.pods))
    used = load.requests
    capacities = {
        "cpu": node.resources.cpu_millis,
        "memory": node.resources.memory_bytes,
        "ephemeral-storage": node.resources.ephemeral_bytes or math.inf,
        **node.others,
    }
    for name, request in pod_requests(pod).items():
        capacity = capacities.get(name, 0 if name.startswith("hugepages-") else math.inf)
        if request and used.get(name, 0) + request > capacity:
            result.append(_lacking(name, request, used.get(name, 0), int(capacity)))
    return result


def _lacking(name: str, requested: int, used: int, capacity: int) -> Lacking:
    return Lacking(
        f"OutOf{name}",
        f"Node didn't have enough resource: {name}, requested: {requested}, used: {used}, "
        f"capacity: {capacity}",
        name,
        requested - (capacity - used),
    )


def _check_ports(pod: Pod, load: Load) -> Refusal | None:
    for protocol, address, number in host_ports(pod):
        for other_protocol, other_address, other_number in load.ports:
            same_address = "" in (address, other_address) or address == other_address
            if (protocol, number) == (other_protocol, other_number) and same_address:
                return Refusal(
                    "NodePorts",
                    "Predicate NodePorts failed: node(s) didn't have free ports for "
                    "the requested pod ports",
                )
    return None


def host_ports(pod: Pod) -> set[HostPort]:
    return {
        (port.protocol or "TCP", "" if port.hostIP == "0.0.0.0" else port.hostIP, port.hostPort)
        for container in (*pod.spec.initContainers, *pod.spec.containers)
        for port in container.ports
        if port.hostPort
    }


def _check_selectors(pod: Pod, node: NodeView) -> Refusal | None:
    if may_be_on(pod.spec, node.name, node.labels):
        return None
    return Refusal(
        AFFINITY, "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
    )


def _check_taints(pod: Pod, node: NodeView) -> Refusal | None:
    """Taints that would have the pod evicted at once; static pods are beyond them."""
    if is_static(pod):
        return None
    for taint in node.taints:
        if taint.effect == "NoExecute" and not any(
            tolerates(toleration, taint) for toleration in pod.spec.tolerations
        ):
            return Refusal(
                TAINT,
                "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
            )
    return None

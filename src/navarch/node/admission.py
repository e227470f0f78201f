"""May this pod run on this node at all? The node's own check, for pods that passed no scheduler.

A pod that is refused is Failed with a reason and never starts. The reasons and texts are upstream's
(`pkg/kubelet/lifecycle/predicate.go`, `pkg/kubelet/sysctl`). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from navarch.api.node_selection import may_be_on
from navarch.api.types.core_v1 import Pod, Taint

from .podspec import is_critical, is_static
from .resources import NodeResources, pod_requests

SAFE_SYSCTLS = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod is not taken."""

    reason: str
    message: str


@dataclass(frozen=True)
class NodeView:
    """What the check knows of the node."""

    name: str
    labels: Mapping[str, str]
    taints: Sequence[Taint]
    resources: NodeResources
    allowed_sysctls: Sequence[str] = ()


def admit(pod: Pod, others: Iterable[Pod], node: NodeView) -> Refusal | None:
    """None if the pod may run beside `others`, the active pods of the node."""
    others = list(others)
    refusal = (
        _check_os(pod)
        or _check_sysctls(pod, node)
        or _check_resources(pod, others, node.resources)
        or _check_ports(pod, others)
        or _check_selectors(pod, node)
        or _check_taints(pod, node)
    )
    if refusal is None:
        return None
    return Refusal(refusal.reason, f"Pod was rejected: {refusal.message}")


def _check_os(pod: Pod) -> Refusal | None:
    if pod.spec.os is not None and pod.spec.os.name not in ("", "linux"):
        return Refusal(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        )
    selected = pod.spec.nodeSelector.get("kubernetes.io/os", "linux")
    if selected != "linux":
        return Refusal(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        )
    return None


def _check_sysctls(pod: Pod, node: NodeView) -> Refusal | None:
    context = pod.spec.securityContext
    for sysctl in context.sysctls if context is not None else ():
        name = sysctl.name.replace("/", ".")
        if name in SAFE_SYSCTLS or any(_covers(each, name) for each in node.allowed_sysctls):
            continue
        return Refusal("SysctlForbidden", f'forbidden sysctl: "{sysctl.name}" not allowlisted')
    return None


def _covers(pattern: str, name: str) -> bool:
    return name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))


def _check_resources(pod: Pod, others: Sequence[Pod], node: NodeResources) -> Refusal | None:
    if len(others) + 1 > node.pods:
        return _lacking("pods", 1, len(others), node.pods)
    wanted = pod_requests(pod)
    used: dict[str, int] = {}
    for other in others:
        for name, value in pod_requests(other).items():
            used[name] = used.get(name, 0) + value
    for name, capacity in (
        ("cpu", node.cpu_millis),
        ("memory", node.memory_bytes),
        ("ephemeral-storage", node.ephemeral_bytes),
    ):
        request = wanted.get(name, 0)
        if request and capacity and used.get(name, 0) + request > capacity:
            return _lacking(name, request, used.get(name, 0), capacity)
    return None


def _lacking(name: str, requested: int, used: int, capacity: int) -> Refusal:
    return Refusal(
        f"OutOf{name}",
        f"Node didn't have enough resource: {name}, requested: {requested}, used: {used}, "
        f"capacity: {capacity}",
    )


def _check_ports(pod: Pod, others: Sequence[Pod]) -> Refusal | None:
    taken = {port for other in others for port in _host_ports(other)}
    for protocol, address, number in _host_ports(pod):
        for other_protocol, other_address, other_number in taken:
            same_address = "" in (address, other_address) or address == other_address
            if (protocol, number) == (other_protocol, other_number) and same_address:
                return Refusal(
                    "NodePorts",
                    "Predicate NodePorts failed: node(s) didn't have free ports for "
                    "the requested pod ports",
                )
    return None


def _host_ports(pod: Pod) -> set[tuple[str, str, int]]:
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
        "NodeAffinity",
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    )


def _check_taints(pod: Pod, node: NodeView) -> Refusal | None:
    """Only static pods: everything else was placed by somebody who looked at the taints."""
    if not is_static(pod) or is_critical(pod):
        return None
    for taint in node.taints:
        if taint.effect == "NoExecute" and not any(
            (toleration.operator == "Exists" and toleration.key in ("", taint.key))
            or (toleration.key == taint.key and toleration.value == taint.value)
            for toleration in pod.spec.tolerations
        ):
            return Refusal(
                "TaintToleration",
                "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
            )
    return None

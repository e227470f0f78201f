"""What the pods of a node take of it, kept as sums: the check of a new pod must not cost more the
more pods there are."""

from __future__ import annotations

from navarch.api.types.core_v1 import Node, Pod

from ..admission import HostPort, Load, NodeView, host_ports
from ..resources import NodeResources, amount, milli, pod_requests

Requests = tuple[tuple[str, int], ...]


class NodeLoad:
    """The active pods of one node."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Requests, frozenset[HostPort]]] = {}
        self._sums: dict[str, int] = {}

    def __contains__(self, uid: str) -> bool:
        return uid in self._of

    def add(self, pod: Pod) -> None:
        self.remove(pod.metadata.uid)
        requests = tuple(pod_requests(pod).items())
        self._of[pod.metadata.uid] = requests, frozenset(host_ports(pod)) or _NO_PORTS
        for name, value in requests:
            self._sums[name] = self._sums.get(name, 0) + value

    def remove(self, uid: str) -> None:
        found = self._of.pop(uid, None)
        if found is not None:
            for name, value in found[0]:
                self._sums[name] -= value

    def view(self) -> Load:
        ports = {port for _, taken in self._of.values() for port in taken}
        return Load(len(self._of), self._sums, ports)


_NO_PORTS: frozenset[HostPort] = frozenset()
_CORE = ("cpu", "memory", "ephemeral-storage", "pods")


def node_view(node: Node) -> NodeView:
    """What admission knows of a node, from its object."""
    has = node.status.allocatable
    resources = NodeResources(
        cpu_millis=milli(has, "cpu"),
        memory_bytes=amount(has, "memory"),
        ephemeral_bytes=amount(has, "ephemeral-storage"),
        pods=amount(has, "pods"),
    )
    others = {name: amount(has, name) for name in has if name not in _CORE}
    return NodeView(
        node.metadata.name, node.metadata.labels, node.spec.taints, resources, others=others
    )

"""The filters of the default profile that look at one node alone."""

from __future__ import annotations

from navarch.api.types.core_v1 import Pod, Taint

from .plugin import FilterPlugin, NodeState, PreFiltered, Rejection
from .requests import in_units, pod_requests, read
from .selectors import has_untolerated_taint, is_tolerated, required_nodes, wants_node


class NodeUnschedulable(FilterPlugin):
    name = "NodeUnschedulable"

    def filter(self, state: NodeState) -> Rejection | None:
        if not state.node.spec.unschedulable:
            return None
        taint = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
        if is_tolerated(self.pod.spec.tolerations, taint):
            return None
        return self.unresolvable("node(s) were unschedulable")


class NodeName(FilterPlugin):
    name = "NodeName"

    def filter(self, state: NodeState) -> Rejection | None:
        if self.pod.spec.nodeName in ("", state.name):
            return None
        return self.unresolvable("node(s) didn't match the requested node name")


class TaintToleration(FilterPlugin):
    name = "TaintToleration"

    def filter(self, state: NodeState) -> Rejection | None:
        if has_untolerated_taint(self.pod, state.node):
            return self.unresolvable("node(s) had untolerated taint(s)")
        return None


class NodeAffinity(FilterPlugin):
    name = "NodeAffinity"

    def pre_filter(self) -> PreFiltered:
        required = required_nodes(self.pod)
        if required is None:
            return None if self.pod.spec.nodeSelector else "skip"
        if not required.nodeSelectorTerms:
            return None
        names: set[str] = set()
        for term in required.nodeSelectorTerms:
            pinned: set[str] | None = None
            for field in term.matchFields:
                if field.key == "metadata.name" and field.operator == "In":
                    values = set(field.values)
                    pinned = values if pinned is None else pinned & values
            if pinned is None:
                return None
            names |= pinned
        return names or self.unresolvable("pod affinity terms conflict")

    def filter(self, state: NodeState) -> Rejection | None:
        if wants_node(self.pod, state.node):
            return None
        return self.unresolvable("node(s) didn't match Pod's node affinity/selector")


Port = tuple[str, str, int]


def host_ports(pod: Pod) -> list[Port]:
    containers = list(pod.spec.containers)
    for container in pod.spec.initContainers:
        if container.restartPolicy == "Always":
            containers.append(container)
    return [
        (port.hostIP or "0.0.0.0", port.protocol or "TCP", port.hostPort)
        for container in containers
        for port in container.ports
        if port.hostPort > 0
    ]


class NodePorts(FilterPlugin):
    name = "NodePorts"

    def pre_filter(self) -> PreFiltered:
        return None if host_ports(self.pod) else "skip"

    def filter(self, state: NodeState) -> Rejection | None:
        for address, protocol, number in host_ports(self.pod):
            for other in state.pods:
                for used_address, used_protocol, used_number in host_ports(other):
                    if (protocol, number) != (used_protocol, used_number):
                        continue
                    if address == used_address or "0.0.0.0" in (address, used_address):
                        return self.unschedulable(
                            "node(s) didn't have free ports for the requested pod ports"
                        )
        return None


class NodeResourcesFit(FilterPlugin):
    name = "NodeResourcesFit"

    def filter(self, state: NodeState) -> Rejection | None:
        room = in_units(read(state.node.status.allocatable))
        reasons = []
        unresolvable = False
        if len(state.pods) + 1 > room.get("pods", 0):
            reasons.append("Too many pods")
        used: dict[str, int] = {}
        for other in state.pods:
            for name, value in in_units(pod_requests(other)).items():
                used[name] = used.get(name, 0) + value
        for name, value in in_units(pod_requests(self.pod)).items():
            if value == 0 or name == "pods":
                continue
            if value > room.get(name, 0) - used.get(name, 0):
                reasons.append(f"Insufficient {name}")
                unresolvable = unresolvable or value > room.get(name, 0)
        if not reasons:
            return None
        return self.unresolvable(*reasons) if unresolvable else self.unschedulable(*reasons)


RESTART_ALL = "RestartAllContainersOnContainerExits"
HOST_NETWORK_USERS = "UserNamespacesHostNetworkSupport"


class NodeDeclaredFeatures(FilterPlugin):
    name = "NodeDeclaredFeatures"

    def _needed(self) -> set[str]:
        spec = self.pod.spec
        needed = set()
        for container in [*spec.containers, *spec.initContainers]:
            for rule in container.restartPolicyRules:
                if rule.action == "RestartAllContainers":
                    needed.add(RESTART_ALL)
        if spec.hostNetwork and spec.hostUsers is False:
            needed.add(HOST_NETWORK_USERS)
        return needed

    def pre_filter(self) -> PreFiltered:
        return None if self._needed() else "skip"

    def filter(self, state: NodeState) -> Rejection | None:
        for feature in self._needed():
            if feature not in state.node.status.declaredFeatures:
                return self.unresolvable("node(s) didn't match Pod's required features")
        return None

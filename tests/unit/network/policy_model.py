"""What NetworkPolicies mean, word by word: slow, without a thought of how it is enforced.

The sentences are those of the API's documentation (`kubectl explain networkpolicy.spec`)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import LabelSelector
from navarch.api.types.networking_v1 import NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort


@dataclass
class World:
    """All there is, by namespace and name."""

    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    policies: dict[tuple[str, str], NetworkPolicy] = field(default_factory=dict)

    def pod_at(self, address: str, *, ended: bool = False) -> Pod | None:
        for pod in self.pods.values():
            if pod.spec.hostNetwork or (pod.status.phase in ("Succeeded", "Failed") and not ended):
                continue
            if address in [each.ip for each in pod.status.podIPs]:
                return pod
        return None

    def allows(self, source: str, target: str, protocol: str, port: int) -> bool:
        # One that is called ended may still run.
        sender, receiver = self.pod_at(source, ended=True), self.pod_at(target, ended=True)
        if sender is not None and sender is receiver:
            return True
        return self.may_send(sender, target, protocol, port) and self.may_take(
            receiver, source, target, protocol, port
        )

    def may_send(self, sender: Pod | None, target: str, protocol: str, port: int) -> bool:
        if sender is None:
            return True
        policies = self.isolating(sender, "Egress")
        return not policies or any(
            self.peers_match(policy, rule.to, target)
            and self.ports_match(rule.ports, self.pod_at(target), protocol, port)
            for policy in policies
            for rule in policy.spec.egress
        )

    def may_take(
        self, receiver: Pod | None, source: str, target: str, protocol: str, port: int
    ) -> bool:
        if receiver is None:
            return True
        policies = self.isolating(receiver, "Ingress")
        return not policies or any(
            self.peers_match(policy, rule.from_, source)
            and self.ports_match(rule.ports, self.pod_at(target), protocol, port)
            for policy in policies
            for rule in policy.spec.ingress
        )

    def isolating(self, pod: Pod, direction: str) -> list[NetworkPolicy]:
        found = []
        for policy in self.policies.values():
            types = policy.spec.policyTypes
            if not types:
                types = ["Ingress", "Egress"] if policy.spec.egress else ["Ingress"]
            if (
                direction in types
                and policy.metadata.namespace == pod.metadata.namespace
                and selects(policy.spec.podSelector, pod.metadata.labels)
            ):
                found.append(policy)
        return found

    def peers_match(
        self, policy: NetworkPolicy, peers: list[NetworkPolicyPeer], address: str
    ) -> bool:
        return not peers or any(self.peer_matches(policy, peer, address) for peer in peers)

    def peer_matches(self, policy: NetworkPolicy, peer: NetworkPolicyPeer, address: str) -> bool:
        if peer.ipBlock is not None:
            it = ipaddress.ip_address(address)
            return it in ipaddress.ip_network(peer.ipBlock.cidr) and not any(
                it in ipaddress.ip_network(each) for each in peer.ipBlock.except_
            )
        pod = self.pod_at(address)
        if pod is None:
            return False
        if peer.namespaceSelector is None:
            if pod.metadata.namespace != policy.metadata.namespace:
                return False
        else:
            labels = self.namespaces.get(pod.metadata.namespace)
            if labels is None or not selects(peer.namespaceSelector, labels):
                return False
        return peer.podSelector is None or selects(peer.podSelector, pod.metadata.labels)

    def ports_match(
        self, ports: list[NetworkPolicyPort], receiver: Pod | None, protocol: str, port: int
    ) -> bool:
        return not ports or any(port_matches(each, receiver, protocol, port) for each in ports)


def port_matches(wanted: NetworkPolicyPort, receiver: Pod | None, protocol: str, port: int) -> bool:
    if (wanted.protocol or "TCP") != protocol:
        return False
    if wanted.port is None:
        return True
    if isinstance(wanted.port, int):
        return wanted.port <= port <= (wanted.endPort or wanted.port)
    return receiver is not None and any(
        each.name == wanted.port
        and each.containerPort == port
        and (each.protocol or "TCP") == protocol
        for container in receiver.spec.containers
        for each in container.ports
    )


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    for key, value in selector.matchLabels.items():
        if labels.get(key) != value:
            return False
    for each in selector.matchExpressions:
        match each.operator:
            case "In":
                fits = labels.get(each.key) in each.values
            case "NotIn":
                fits = labels.get(each.key) not in each.values
            case "Exists":
                fits = each.key in labels
            case "DoesNotExist":
                fits = each.key not in labels
        if not fits:
            return False
    return True

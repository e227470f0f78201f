"""What enforcement has to know of NetworkPolicies and pods, as plain values. No I/O.

A policy is taken apart into what it selects and what it allows. Pods of one namespace with the same
labels are one identity: whatever policies say of one of them they say of all, so it is worked out
once. Rules are those of the NetworkPolicy API (networking.k8s.io/v1); where it leaves a choice,
`docs/network.md` tells which one was made.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from navarch.api.selectors import EVERYTHING, LabelSelector, label_selector_from_object
from navarch.api.types.core_v1 import Container, Pod
from navarch.api.types.networking_v1 import (
    IPBlock,
    NetworkPolicy,
    NetworkPolicyPeer,
    NetworkPolicyPort,
)

LAST_PORT = 65535
MIRROR = "kubernetes.io/config.mirror"
"""The annotation of the object that stands in the API for a static pod."""
Key = tuple[str, str]
"""Namespace and name."""
NamedPort = tuple[str, str]
"""Protocol and name."""


class Identity(NamedTuple):
    """What policies see of a pod."""

    namespace: str
    labels: tuple[tuple[str, str], ...]


def identity(namespace: str, labels: Mapping[str, str]) -> Identity:
    return Identity(namespace, tuple(sorted(labels.items())))


class Peers(NamedTuple):
    """Pods by selector. `namespace` is the one they are in, or empty: those that `namespaces`
    matches."""

    namespace: str
    namespaces: LabelSelector
    pods: LabelSelector

    def matches(
        self, namespace: str, of_namespace: Mapping[str, str] | None, of_pod: Mapping[str, str]
    ) -> bool:
        """Whether a pod is meant. Of a namespace that is not known yet (None) no selector may say
        anything: it would match by labels that are missing."""
        if self.namespace:
            return self.namespace == namespace and self.pods.matches(of_pod)
        if of_namespace is None or not self.namespaces.matches(of_namespace):
            return False
        return self.pods.matches(of_pod)


class PortRange(NamedTuple):
    """Ports of one protocol, both ends included."""

    protocol: str
    first: int
    last: int


class Block(NamedTuple):
    """Addresses of one family (4 or 6), both ends included."""

    version: int
    first: int
    last: int

    @property
    def family(self) -> str:
        return "ip" if self.version == 4 else "ip6"

    def __str__(self) -> str:
        kind = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        first, last = kind(self.first), kind(self.last)
        return str(first) if first == last else f"{first}-{last}"


@dataclass(frozen=True, slots=True)
class Allow:
    """One rule of a policy: these peers, on these ports."""

    any_peer: bool
    peers: tuple[Peers, ...]
    blocks: tuple[Block, ...]
    any_port: bool
    """Of any protocol, ICMP included."""
    ports: tuple[PortRange, ...]
    named: tuple[NamedPort, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A NetworkPolicy. A direction that is None is none of its business."""

    key: Key
    selects: LabelSelector
    ingress: tuple[Allow, ...] | None
    egress: tuple[Allow, ...] | None


def policy_of(policy: NetworkPolicy) -> Policy:
    spec = policy.spec
    namespace = policy.metadata.namespace
    # The API server fills policyTypes in; what it holds from before it did so is read alike.
    types = spec.policyTypes or ["Ingress", *(["Egress"] if spec.egress else [])]
    ingress = egress = None
    if "Ingress" in types:
        ingress = tuple(_allow(rule.from_, rule.ports, namespace) for rule in spec.ingress)
    if "Egress" in types:
        egress = tuple(_allow(rule.to, rule.ports, namespace) for rule in spec.egress)
    selects = label_selector_from_object(spec.podSelector)
    return Policy((namespace, policy.metadata.name), selects, ingress, egress)


def _allow(
    peers: Sequence[NetworkPolicyPeer], ports: Sequence[NetworkPolicyPort], namespace: str
) -> Allow:
    pods: set[Peers] = set()
    blocks: list[Block] = []
    for peer in peers:
        if peer.ipBlock is not None:
            blocks += _blocks(peer.ipBlock)
            continue
        selected = EVERYTHING
        if peer.podSelector is not None:
            selected = label_selector_from_object(peer.podSelector)
        if peer.namespaceSelector is not None:
            pods.add(Peers("", label_selector_from_object(peer.namespaceSelector), selected))
        elif peer.podSelector is not None:
            pods.add(Peers(namespace, EVERYTHING, selected))
    return Allow(
        any_peer=not peers,
        peers=tuple(sorted(pods, key=str)),
        blocks=merged(blocks),
        any_port=not ports,
        ports=_ranges(ports),
        named=tuple(
            sorted({(_protocol(port), port.port) for port in ports if isinstance(port.port, str)})
        ),
    )


def _protocol(port: NetworkPolicyPort) -> str:
    return (port.protocol or "TCP").lower()


def _ranges(ports: Iterable[NetworkPolicyPort]) -> tuple[PortRange, ...]:
    """The numbered ports, touching ranges made one."""
    result: list[PortRange] = []
    found = []
    for port in ports:
        if port.port is None:
            found.append(PortRange(_protocol(port), 0, LAST_PORT))
        elif isinstance(port.port, int):
            found.append(PortRange(_protocol(port), port.port, port.endPort or port.port))
    for each in sorted(found):
        if result and result[-1].protocol == each.protocol and result[-1].last >= each.first - 1:
            last = max(result[-1].last, each.last)
            result[-1] = PortRange(each.protocol, result[-1].first, last)
        else:
            result.append(each)
    return tuple(result)


def _blocks(block: IPBlock) -> list[Block]:
    """A range without its exceptions. What is no range holds no address."""
    network = _network(block.cidr)
    if network is None:
        return []
    left = [network]
    for text in block.except_:
        hole = _network(text)
        if hole is None or hole.version != network.version:
            continue
        left = [piece for each in left for piece in _without(each, hole)]
    return left


def _network(text: str) -> Block | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    return Block(network.version, int(network.network_address), int(network.broadcast_address))


def _without(block: Block, hole: Block) -> list[Block]:
    if hole.last < block.first or block.last < hole.first:
        return [block]
    version = block.version
    pieces = [
        Block(version, block.first, hole.first - 1),
        Block(version, hole.last + 1, block.last),
    ]
    return [piece for piece in pieces if piece.first <= piece.last]


def merged(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The same addresses in as few pieces as possible. nftables refuses overlapping ones; and an
    address that one peer leaves out may be allowed by another."""
    result: list[Block] = []
    for each in sorted(blocks):
        if result and result[-1].version == each.version and result[-1].last >= each.first - 1:
            result[-1] = Block(each.version, result[-1].first, max(result[-1].last, each.last))
        else:
            result.append(each)
    return tuple(result)


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod that has addresses of its own."""

    key: Key
    who: Identity
    addresses: tuple[str, ...]
    is_local: bool
    """On this node: what it sends and gets passes here."""
    ports: frozenset[tuple[str, str, int]] = frozenset()
    """Protocol, name and number of its named ports."""
    is_peer: bool = True
    """Whether policies about others may mean it."""
    since: tuple[int, str] = (0, "")
    """Of two pods that claim an address the later one has it."""


def named_ports(pod: Pod) -> frozenset[tuple[str, str, int]]:
    """The names that policies may use for the pod's ports: of containers, and of init containers
    that run on beside them."""
    containers: list[Container] = [
        *pod.spec.containers,
        *(each for each in pod.spec.initContainers if each.restartPolicy == "Always"),
    ]
    return frozenset(
        ((port.protocol or "TCP").lower(), port.name, port.containerPort)
        for container in containers
        for port in container.ports
        if port.name
    )


def facts_of(pod: Pod, node: str) -> PodFacts | None:
    """None for what policies do not know: pods in the node's network, ended ones (their address may
    be another's), and those without an address yet. An ended pod of this node remains isolated as
    long as its address is nobody else's: evicted ones are called failed while they still run."""
    status = pod.status
    is_local = pod.spec.nodeName == node
    has_ended = status.phase in ("Succeeded", "Failed")
    if pod.spec.hostNetwork or (has_ended and not is_local):
        return None
    given = [each.ip for each in status.podIPs] or [status.podIP]
    addresses = tuple(address for each in given if (address := canonical(each)))
    if not addresses:
        return None
    return PodFacts(
        key=(pod.metadata.namespace, pod.metadata.name),
        who=identity(pod.metadata.namespace, pod.metadata.labels),
        addresses=addresses,
        is_local=is_local,
        ports=frozenset() if has_ended else named_ports(pod),
        is_peer=not has_ended,
        since=(-has_ended, status.startTime or pod.metadata.creationTimestamp or ""),
    )


def canonical(address: str) -> str:
    """An address as the kernel's tables have it; empty for what is none. Whoever may write a pod's
    status must not get text of his into the rules."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if parsed.version == 6 and parsed.scope_id:
        return ""
    return str(parsed)


def family_of(address: str) -> str:
    return "ip6" if ":" in address else "ip"

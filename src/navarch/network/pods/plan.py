"""What a node needs in its kernel so that its pods reach those of other nodes. Pure.

To a node on the same link a plain route does it: its pods' range by way of its address (flannel
calls this host-gw). To a node somewhere behind a router packets are wrapped in VXLAN (RFC 7348),
whose tunnel end is the other node itself. That takes exactly three objects for each remote node and
family: a route to its pods through its tunnel end, a neighbour entry that says which MAC address
the tunnel end has, and a forwarding entry that says at which node that MAC address is. Nothing is
learned and nothing is flooded: all of it is known from the Node objects, on which every node
publishes its MAC address.

The tunnel end's address is the network address of the node's pod range, which no pod has. Packets
of the node itself to remote pods bear it as their source, so the answer finds its way back.
"""

from __future__ import annotations

import bisect
import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from navarch.api.types.core_v1 import Node

ANNOTATION = "network.navarch.dev/tunnel"
"""On a Node: its tunnel end, as JSON."""
OVERHEAD = {4: 50, 6: 70}
"""What wrapping adds to a packet, by the family of the network in between: the inner Ethernet
header (14), the outer IP header (20 or 40), UDP (8), VXLAN (8)."""
ROUTE, NEIGHBOUR, FORWARD = "route", "neighbour", "forward"
_REMOVAL = {ROUTE: 0, NEIGHBOUR: 1, FORWARD: 2}
_ADDITION = {FORWARD: 0, NEIGHBOUR: 1, ROUTE: 2}


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A node's tunnel end as it is published: the MAC address of its device and the node address
    that wrapped packets are sent to."""

    mac: str
    address: str

    def encode(self) -> str:
        return json.dumps({"mac": self.mac, "address": self.address}, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node."""

    name: str
    cidrs: tuple[str, ...]
    addresses: tuple[str, ...]
    tunnel: Tunnel | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One object in the kernel. `via` is a gateway, a MAC address or a node, by kind; `tunnelled`
    says that it belongs to the tunnel's device and not to the node's own link."""

    kind: str
    target: str
    via: str
    tunnelled: bool = True

    def __str__(self) -> str:
        device = "tunnel" if self.tunnelled else "link"
        return f"{self.kind} {self.target} via {self.via} on {device}"


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """What a node's pod network shall look like."""

    cidrs: tuple[str, ...] = ()
    """The ranges of the node's own pods, none until the controllers have given it one."""
    peers: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    entry: Entry
    remove: bool = False

    def __str__(self) -> str:
        return f"{'remove' if self.remove else 'add'} {self.entry}"


def ranges(node: Node) -> tuple[str, ...]:
    """The node's pod ranges, those that are none left out."""
    given = node.spec.podCIDRs or ([node.spec.podCIDR] if node.spec.podCIDR else [])
    return tuple(each for each in given if _network(each) is not None)


def tunnel_of(annotations: Mapping[str, str]) -> Tunnel | None:
    """The tunnel end in a node's annotations. Whoever may write there may write nonsense, which
    must not get as far as the kernel."""
    try:
        found = json.loads(annotations.get(ANNOTATION, ""))
        octets = [int(octet, 16) for octet in str(found["mac"]).split(":")]
        address = ipaddress.ip_address(str(found["address"]))
    except (ValueError, KeyError, TypeError):
        return None
    if len(octets) != 6 or any(not 0 <= octet <= 255 for octet in octets) or octets[0] & 1:
        return None
    return Tunnel(":".join(f"{octet:02x}" for octet in octets), str(address))


def observe(own: str, nodes: Iterable[Node], cluster: Sequence[str] = ()) -> PodNetwork:
    """The pod network of the node `own`, among all nodes. What a node says of itself may be wrong:
    one that claims addresses outside the cluster's pod ranges (where those are known), or what an
    older one has, gets nothing of it, since packets for others must not be drawn to it."""
    allowed = [network for each in cluster if (network := _network(each)) is not None]
    cidrs: tuple[str, ...] = ()
    peers = []
    claimed, ends = _Claimed(), set[str]()
    for node in sorted(nodes, key=lambda each: _seniority(own, each)):
        networks = [ipaddress.ip_network(text, strict=False) for text in ranges(node)]
        inside = (
            each for each in networks if not allowed or any(_inside(each, a) for a in allowed)
        )
        wanted = tuple(str(each) for each in inside if claimed.take(each))
        tunnel = tunnel_of(node.metadata.annotations)
        if tunnel is not None and tunnel.mac in ends:
            tunnel = None
        if tunnel is not None:
            ends.add(tunnel.mac)
        if node.metadata.name == own:
            cidrs = wanted
        elif wanted and (addresses := _addresses(node)):
            peers.append(Peer(node.metadata.name, wanted, addresses, tunnel))
    peers.sort(key=lambda each: each.name)
    return PodNetwork(cidrs, tuple(peers))


def _seniority(own: str, node: Node) -> tuple[bool, str, str]:
    meta = node.metadata
    return meta.name != own, meta.creationTimestamp or "", meta.name


def _addresses(node: Node) -> tuple[str, ...]:
    """The node's own, those that are none left out."""
    given = [each.address for each in node.status.addresses if each.type == "InternalIP"]
    return tuple(each for each in given if _network(each) is not None and "/" not in each)


class _Claimed:
    """Ranges that somebody has, which never overlap."""

    def __init__(self) -> None:
        self._ends: dict[int, tuple[list[int], list[int]]] = {4: ([], []), 6: ([], [])}
        """First and last addresses, in order, by family."""

    def take(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
        """Whether nobody had any of it."""
        firsts, lasts = self._ends[network.version]
        first, last = int(network.network_address), int(network.broadcast_address)
        place = bisect.bisect_right(firsts, last)
        if place and lasts[place - 1] >= first:
            return False
        firsts.insert(place, first)
        lasts.insert(place, last)
        return True


def gateway_on_link(peer: Peer, cidr: str, is_direct: Callable[[str], bool]) -> str:
    """The peer's address of the range's family, if it is on our link."""
    version = ipaddress.ip_network(cidr).version
    for address in peer.addresses:
        if _version(address) == version and is_direct(address):
            return address
    return ""


def entries(
    network: PodNetwork, is_direct: Callable[[str], bool], *, always_wrap: bool = False
) -> frozenset[Entry]:
    """Everything that must be in the kernel for these peers."""
    found = set()
    for peer in network.peers:
        for cidr in peer.cidrs:
            gateway = "" if always_wrap else gateway_on_link(peer, cidr, is_direct)
            if gateway:
                found.add(Entry(ROUTE, cidr, gateway, tunnelled=False))
            elif peer.tunnel is not None:
                end = tunnel_address(cidr)
                found.add(Entry(FORWARD, peer.tunnel.mac, peer.tunnel.address))
                found.add(Entry(NEIGHBOUR, end, peer.tunnel.mac))
                found.add(Entry(ROUTE, cidr, end))
    return frozenset(found)


def changes(wanted: Iterable[Entry], present: Iterable[Entry]) -> list[Change]:
    """From what is there to what shall be, in an order in which no packet is sent to nowhere: a
    route goes first and comes last."""
    wanted, present = set(wanted), set(present)
    replaced = {(each.kind, each.target) for each in wanted}
    # What gets another `via` is replaced in one step: to take it away first would lose packets.
    gone = [each for each in present - wanted if (each.kind, each.target) not in replaced]
    removals = sorted(gone, key=lambda each: (_REMOVAL[each.kind], str(each)))
    additions = sorted(wanted - present, key=lambda each: (_ADDITION[each.kind], str(each)))
    return [
        *(Change(each, remove=True) for each in removals if each.kind == ROUTE),
        *(Change(each) for each in additions),
        *(Change(each, remove=True) for each in removals if each.kind != ROUTE),
    ]


def needs_tunnel(wanted: Iterable[Entry]) -> bool:
    return any(entry.tunnelled for entry in wanted)


def tunnel_address(cidr: str) -> str:
    return str(ipaddress.ip_network(cidr).network_address)


def pod_mtu(link_mtu: int, address: str, *, wrapped: bool) -> int:
    """How large a pod's packets may be, on a node with this address."""
    return link_mtu - (OVERHEAD[_version(address)] if wrapped else 0)


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _inside(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
    other: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> bool:
    return (
        network.version == other.version
        and network.network_address in other
        and network.broadcast_address in other
    )

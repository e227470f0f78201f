"""The wires of a cluster, as plain values: what the host and each node get.

    host ── navarch0 (192.168.49.1) ──┬── veth ── eth0 192.168.49.2   node navarch
                                      └── veth ── eth0 192.168.49.3   node navarch-m02

The host gets one bridge, one nftables table and the cluster's routes; a node gets one interface
and one small table of its own. Everything here is decided without touching the kernel;
`netns.py` applies it.

Two rules keep stray packets in the house. A node refuses what is still addressed to a Service
after its proxy has had its say (while there is none yet), and pods' addresses that belong to
nobody have an unreachable route, so that such a packet ends in the first node it meets.
The host refuses to forward any of them anywhere but into the cluster. It says nothing about what
goes from bridge to bridge: where bridged frames pass the host's IP hooks (br_netfilter), that is
how nodes speak to each other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from navarch.cluster.profile import Profile, paths_of

NODE_TABLE = "navarch_node"
TUNNEL = "navarch-vxlan"
"""The device that wraps packets for pods of nodes on other links (`network.pods.kernel`)."""


@dataclass(frozen=True, slots=True)
class Route:
    """`gateway` empty: `interface` reaches it directly; no interface either: unreachable. A gateway
    alone is reached through whatever interface leads to it."""

    destination: str
    gateway: str = ""
    interface: str = ""

    def __str__(self) -> str:
        if not (self.interface or self.gateway):
            return f"unreachable {self.destination}"
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.destination}{via}" + (f" dev {self.interface}" if self.interface else "")


@dataclass(frozen=True, slots=True)
class NodeWiring:
    """One node's interface and routes. Addresses bear their prefix length."""

    node: str
    host_interface: str
    addresses: tuple[str, ...]
    routes: tuple[Route, ...]
    rules: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """The whole cluster's."""

    bridge: str
    addresses: tuple[str, ...]
    routes: tuple[Route, ...]
    tables: tuple[str, ...]
    """The host's tables, each with its family."""
    rules: str
    nodes: tuple[NodeWiring, ...]
    listen: tuple[str, ...] = ()
    """Addresses of the host that other machines know it by."""
    owner: str = ""
    """Written on the bridge: clusters kept in several homes share the names of links."""

    def describe(self) -> str:
        """The plan as text, for tests and `navarch start -v`."""
        lines = [f"bridge {self.bridge} {' '.join(self.addresses)}"]
        lines += [f"host route {route}" for route in self.routes]
        for node in self.nodes:
            lines.append(
                f"node {node.node}: {node.host_interface} -> eth0 {' '.join(node.addresses)}"
            )
            lines += [f"node {node.node}: route {route}" for route in node.routes]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Words:
    """What one family of addresses is called by nftables, and where clouds tell their machines
    about themselves, credentials included."""

    family: str
    any: str
    unreachable: str
    refused: str
    metadata: str


WORDS = {
    4: Words("ip", "0.0.0.0/0", "icmp net-unreachable", "icmp port-unreachable", "169.254.169.254"),
    6: Words("ip6", "::/0", "icmpv6 no-route", "icmpv6 port-unreachable", "fd00:ec2::254"),
}


@dataclass(frozen=True, slots=True)
class Ranges:
    """A cluster's ranges of one family. `subnet` is the nodes', empty where they have none in
    common."""

    services: str
    pods: str
    subnet: str = ""

    @property
    def words(self) -> Words:
        return WORDS[ipaddress.ip_network(self.services).version]


def ranges(profile: Profile) -> tuple[Ranges, ...]:
    found = zip(profile.service_cidrs, profile.pod_cidrs, profile.subnets, strict=True)
    return tuple(Ranges(*each) for each in found)


def plan(profile: Profile) -> Wiring:
    """How this profile is wired."""
    # One node answers for the cluster's ranges: it has every Service, and hands on what belongs
    # to pods of the others.
    names = profile.node_names()
    first = next(iter(profile.running_nodes()), names[0])
    families = ranges(profile)
    return Wiring(
        bridge=profile.bridge,
        addresses=_with_lengths(profile.host_addresses, profile.subnets),
        routes=tuple(
            Route(destination, address, profile.bridge)
            for each, address in zip(families, profile.node_addresses(first), strict=True)
            for destination in (each.services, each.pods)
        ),
        tables=tuple(f"{each.words.family} {profile.bridge}" for each in families),
        rules=host_rules(profile),
        nodes=tuple(_node(profile, name) for name in profile.running_nodes()),
        listen=profile.listen_addresses,
        owner=str(paths_of(profile.name).root),
    )


def _with_lengths(addresses: Iterable[str], networks: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        f"{address}/{network.partition('/')[2]}"
        for address, network in zip(addresses, networks, strict=True)
    )


def _node(profile: Profile, name: str) -> NodeWiring:
    routes = []
    for each, host in zip(ranges(profile), profile.host_addresses, strict=True):
        routes += [Route(each.words.any, host, "eth0"), Route(each.pods)]
    return NodeWiring(
        node=name,
        host_interface=f"{profile.bridge}n{profile.node_number(name)}",
        addresses=_with_lengths(profile.node_addresses(name), profile.subnets),
        routes=tuple(routes),
        rules=node_rules(profile),
    )


def host_rules(profile: Profile) -> str:
    """The host's table: the nodes' way out, and no way out for the cluster's own addresses. One
    table for each family, written so that loading it twice is loading it once."""
    return "".join(_host_rules(profile.bridge, each) for each in ranges(profile))


def _host_rules(bridge: str, ranges: Ranges) -> str:
    ip, refusal = ranges.words.family, ranges.words.unreachable
    inside = f"{{ {ranges.services}, {ranges.pods} }}"
    return f"""\
add table {ip} {bridge}
delete table {ip} {bridge}
table {ip} {bridge} {{
	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname != "{bridge}" {ip} daddr {inside} reject with {refusal}
		oifname != "{bridge}" {ip} saddr {inside} drop
	}}
	chain output {{
		type filter hook output priority filter; policy accept;
		oifname != {{ "lo", "{bridge}" }} {ip} daddr {inside} reject with {refusal}
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		{ip} saddr {ranges.subnet} oifname != "{bridge}" masquerade
	}}
}}
"""


def node_rules(profile: Profile, interface: str = "eth0") -> str:
    """A node's guard. Service addresses are translated before these hooks, so what still bears
    one is for nobody: it is refused, unless the proxy, which comes first, has decided. Pods
    leave the cluster under their node's address, and what is no pod goes through the tunnel under
    the tunnel's, which the other end can answer to. Host ports on the loopback address make the
    kernel route such packets between interfaces, so that a pod could reach what listens there for
    the node alone (CVE-2020-8558): that is refused. (Of IPv6's loopback address the kernel itself
    sees to that.)"""
    return rules_for(ranges(profile), interface, metadata_blocked=profile.metadata_blocked)


def rules_for(families: Iterable[Ranges], interface: str, *, metadata_blocked: bool = False) -> str:
    return "".join(_node_rules(each, interface, metadata_blocked) for each in families)


def _node_rules(ranges: Ranges, interface: str, metadata_blocked: bool) -> str:
    ip, refusal = ranges.words.family, ranges.words.refused
    metadata = f"\n\t\t{ip} daddr {ranges.words.metadata} reject with {refusal}"
    cluster = ", ".join(filter(None, (ranges.subnet, ranges.pods, ranges.services)))
    out = f'oifname "{interface}"'
    guard = """\
	chain input {
		type filter hook input priority filter; policy accept;
		iifname != "lo" ip daddr 127.0.0.0/8 ct status & dnat == 0 ct state new drop
	}
"""
    return f"""\
add table {ip} {NODE_TABLE}
delete table {ip} {NODE_TABLE}
table {ip} {NODE_TABLE} {{
{guard if ip == "ip" else ""}\
	chain forward {{
		type filter hook forward priority filter + 5; policy accept;
		{ip} daddr {ranges.services} reject with {refusal}{metadata if metadata_blocked else ""}
	}}
{_returned(ranges, interface)}\
	chain output {{
		type filter hook output priority filter + 5; policy accept;
		{out} {ip} daddr {ranges.services} reject with {refusal}
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		{ip} saddr {ranges.pods} {ip} daddr != {{ {cluster} }} {out} masquerade
		{ip} saddr != {ranges.pods} oifname "{TUNNEL}" masquerade
	}}
}}
"""


def _returned(ranges: Ranges, interface: str) -> str:
    """What came to this node for an address of a load balancer, and to none of its ports, would go
    back to where it came from: it is refused, as by any host, once the proxy has let it pass. TCP
    by a reset, since the kernel is sparing with ICMP."""
    if not ranges.subnet:
        return ""
    ip, refusal = ranges.words.family, ranges.words.refused
    ways = f'iifname "{interface}" oifname "{interface}" {ip} daddr {ranges.subnet}'
    return f"""\
	chain returned {{
		type filter hook forward priority filter + 5; policy accept;
		{ways} ct status & dnat == 0 meta l4proto tcp reject with tcp reset
		{ways} ct status & dnat == 0 reject with {refusal}
	}}
"""


SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_dad": "0",
}
"""A node's kernel settings, below /proc/sys and inside its network namespace only. The reverse
path filter is off because with several nodes the host reaches pods by way of the first one while
they answer directly; packets still cannot come from outside, since the host refuses them. Nobody
looks for duplicates of IPv6 addresses, which are given out here: until that was done they could not
be used."""

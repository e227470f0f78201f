"""The wires of a cluster, as plain values: what the host and each node get.

    host ── navarch0 (192.168.49.1) ──┬── veth ── eth0 192.168.49.2   node navarch
                                      └── veth ── eth0 192.168.49.3   node navarch-m02

The host gets one bridge, one nftables table and the cluster's routes; a node gets one interface
and one small table of its own. Everything here is decided without touching the kernel;
`netns.py` applies it.

Two rules keep stray packets in the house. A node refuses what is still addressed to a Service
after its proxy has had its say (no proxy yet, or no such Service), and pods' addresses that
belong to nobody have an unreachable route, so that such a packet ends in the first node it meets.
The host refuses to forward any of them anywhere but into the cluster. It says nothing about what
goes from bridge to bridge: where bridged frames pass the host's IP hooks (br_netfilter), that is
how nodes speak to each other.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from navarch.cluster.profile import Profile, paths_of

NODE_TABLE = "navarch_node"


@dataclass(frozen=True, slots=True)
class Route:
    """`gateway` empty: `interface` reaches it directly; no interface either: unreachable."""

    destination: str
    gateway: str = ""
    interface: str = ""

    def __str__(self) -> str:
        if not self.interface:
            return f"unreachable {self.destination}"
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.destination}{via} dev {self.interface}"


@dataclass(frozen=True, slots=True)
class NodeWiring:
    """One node's interface and routes."""

    node: str
    host_interface: str
    address: str
    prefix_length: int
    routes: tuple[Route, ...]
    rules: str


@dataclass(frozen=True, slots=True)
class Wiring:
    """The whole cluster's."""

    bridge: str
    address: str
    prefix_length: int
    routes: tuple[Route, ...]
    table: str
    rules: str
    nodes: tuple[NodeWiring, ...]
    owner: str = ""
    """Written on the bridge: clusters kept in several homes share the names of links."""

    def describe(self) -> str:
        """The plan as text, for tests and `navarch start -v`."""
        lines = [f"bridge {self.bridge} {self.address}/{self.prefix_length}"]
        lines += [f"host route {route}" for route in self.routes]
        for node in self.nodes:
            lines.append(
                f"node {node.node}: {node.host_interface} -> eth0 "
                f"{node.address}/{node.prefix_length}"
            )
            lines += [f"node {node.node}: route {route}" for route in node.routes]
        return "\n".join(lines) + "\n"


def plan(profile: Profile) -> Wiring:
    """How this profile is wired."""
    subnet = ipaddress.ip_network(profile.subnet)
    names = profile.node_names()
    first = profile.node_address(names[0])
    # One node answers for the cluster's ranges: it has every Service, and hands on what belongs
    # to pods of the others.
    routes = tuple(
        Route(destination, first, profile.bridge)
        for destination in (profile.service_cidr, profile.pod_cidr)
    )
    return Wiring(
        bridge=profile.bridge,
        address=profile.host_address,
        prefix_length=subnet.prefixlen,
        routes=routes,
        table=host_table(profile),
        rules=host_rules(profile),
        nodes=tuple(_node(profile, number, name) for number, name in enumerate(names)),
        owner=str(paths_of(profile.name).root),
    )


def _node(profile: Profile, number: int, name: str) -> NodeWiring:
    subnet = ipaddress.ip_network(profile.subnet)
    return NodeWiring(
        node=name,
        host_interface=f"{profile.bridge}n{number + 1}",
        address=profile.node_address(name),
        prefix_length=subnet.prefixlen,
        routes=(
            Route("0.0.0.0/0", profile.host_address, "eth0"),
            Route(profile.pod_cidr),
        ),
        rules=node_rules(profile),
    )


def host_table(profile: Profile) -> str:
    return profile.bridge


def host_rules(profile: Profile) -> str:
    """The host's table: the nodes' way out, and no way out for the cluster's own addresses.

    Written so that loading it twice is loading it once."""
    inside = f"{{ {profile.service_cidr}, {profile.pod_cidr} }}"
    name = host_table(profile)
    return f"""\
add table ip {name}
delete table ip {name}
table ip {name} {{
	chain forward {{
		type filter hook forward priority filter; policy accept;
		oifname != "{profile.bridge}" ip daddr {inside} reject with icmp net-unreachable
		oifname != "{profile.bridge}" ip saddr {inside} drop
	}}
	chain output {{
		type filter hook output priority filter; policy accept;
		oifname != {{ "lo", "{profile.bridge}" }} ip daddr {inside} reject with icmp net-unreachable
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr {profile.subnet} oifname != "{profile.bridge}" masquerade
	}}
}}
"""


def node_rules(profile: Profile) -> str:
    """A node's guard. Service addresses are translated before these hooks, so what still bears
    one is for nobody; pods leave the cluster under their node's address. Host ports on the loopback
    address make the kernel route such packets between interfaces, so that a pod could reach what
    listens there for the node alone (CVE-2020-8558): that is refused."""
    cluster = f"{{ {profile.subnet}, {profile.pod_cidr}, {profile.service_cidr} }}"
    return f"""\
add table ip {NODE_TABLE}
delete table ip {NODE_TABLE}
table ip {NODE_TABLE} {{
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname != "lo" ip daddr 127.0.0.0/8 ct status & dnat == 0 ct state new drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		ip daddr {profile.service_cidr} reject with icmp port-unreachable
	}}
	chain output {{
		type filter hook output priority filter; policy accept;
		oifname "eth0" ip daddr {profile.service_cidr} reject with icmp port-unreachable
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr {profile.pod_cidr} ip daddr != {cluster} oifname "eth0" masquerade
	}}
}}
"""


SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
"""A node's kernel settings, below /proc/sys and inside its network namespace only. The reverse
path filter is off because with several nodes the host reaches pods by way of the first one while
they answer directly; packets still cannot come from outside, since the host refuses them."""

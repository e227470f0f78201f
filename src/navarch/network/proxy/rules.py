"""From Services to nftables: one port's chains, sets and map elements as plain text. No I/O.

The layout is upstream's nftables proxy (KEP-3866): verdict maps lead from an address, protocol and
port to the chain of that Service port, so a packet meets three look-ups whatever the number of
Services, and a change of one Service touches its own elements and chains only.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from navarch.network.proxy.model import Backends, Endpoint, PortKey, ServicePort

TABLE = "kube-proxy"
MARK = "0x4000"
"""The bit of the packet mark that asks for masquerading on the way out."""
MARK_RULE = f"mark set mark or {MARK}"

Element = tuple[str, str]
"""A map's or set's name, and the key in it."""


PRIMARY = "primary"
"""As `node_port_addresses`: the node's own addresses, and no other that it may have."""
BALANCED_BY_RULES = 4
"""Up to so many endpoints are chosen by a rule each, more by a map in one rule: a map costs the
kernel more to make than a few rules, since it looks through all sets of the table for its name."""


@dataclass(frozen=True, slots=True)
class Network:
    """What the fixed part of one family's table needs to know of the node and its cluster."""

    node_ips: tuple[str, ...]
    service_cidrs: tuple[str, ...]
    """Addresses in here that no Service has lead nowhere."""
    pod_cidrs: tuple[str, ...]
    """Sources in here are pods; the rest is masqueraded on its way to a ClusterIP."""
    node_port_addresses: tuple[str, ...] = (PRIMARY,)
    """Where node ports answer: the node's own addresses, or all that it has in these ranges."""
    masquerade_all: bool = False
    refuses_unassigned: bool = False
    """What is sent to an address of the Service ranges that no Service has is refused, so that
    nobody waits in vain. Upstream drops it."""
    local_pods: tuple[str, ...] = ()
    """Where this node's pods are, if known. What pods of other nodes send to this one's node ports
    is a stranger's: their own node would not know the answer of an endpoint that is not here."""

    def of(self, family: str) -> Network:
        """Its part in one address family."""

        def mine(entries: Iterable[str]) -> tuple[str, ...]:
            return tuple(e for e in entries if (":" in e) == (family == "ip6"))

        ranges = self.node_port_addresses
        return dataclasses.replace(
            self,
            node_ips=mine(self.node_ips),
            service_cidrs=mine(self.service_cidrs),
            pod_cidrs=mine(self.pod_cidrs),
            local_pods=mine(self.local_pods),
            node_port_addresses=ranges if PRIMARY in ranges else mine(ranges),
        )

    @property
    def families(self) -> tuple[str, ...]:
        """Those that the node has addresses in, or the cluster Services."""
        return tuple(
            family
            for family in ("ip", "ip6")
            if self.of(family).node_ips or self.of(family).service_cidrs
        )


@dataclass(slots=True)
class PortRules:
    """Everything that one Service port has in the table."""

    created: str = ""
    cluster_at: str = ""
    """The key that is its own for certain: ClusterIP, protocol and port."""
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, int] = field(default_factory=dict)
    """Affinity sets and their timeout in seconds."""
    elements: dict[Element, str] = field(default_factory=dict)
    """Map elements with their value; a set's elements have the value ""."""


MAPS = ("service-ips", "no-endpoint-services", "firewall-ips")
PORT_MAPS = ("service-nodeports", "no-endpoint-nodeports")
SETS = ("cluster-ips", "hairpin-connections")
CONTENTS = frozenset((*MAPS, *PORT_MAPS, *SETS))
"""The maps and sets whose elements Services own."""


def fixed(family: str, network: Network) -> list[str]:
    """The commands that make all that no Service changes what it should be, be it there or not.
    What Services own stays as it is."""
    table = f"{family} {TABLE}"
    addr = "ipv4_addr" if family == "ip" else "ipv6_addr"
    lines = [f"add table {table}"]
    lines += [f"add chain {table} {name} {{ {hook} }}" for name, hook in BASE_CHAINS.items()]
    lines += [f"add chain {table} {name}" for name in FIXED_CHAINS]
    lines += [f"flush chain {table} {name}" for name in (*BASE_CHAINS, *FIXED_CHAINS)]
    full = f"{addr} . inet_proto . inet_service"
    lines += [f"add map {table} {name} {{ type {full} : verdict ; }}" for name in MAPS]
    short = "inet_proto . inet_service"
    lines += [f"add map {table} {name} {{ type {short} : verdict ; }}" for name in PORT_MAPS]
    lines.append(f"add set {table} cluster-ips {{ type {addr} ; }}")
    lines.append(f"add set {table} hairpin-connections {{ type {addr} . {full} ; }}")
    if PRIMARY in network.node_port_addresses:
        lines += [
            f"add set {table} {NODE_PORT_SET} {{ type {addr} ; }}",
            f"flush set {table} {NODE_PORT_SET}",
        ]
        if network.node_ips:
            inside = ", ".join(network.node_ips)
            lines.append(f"add element {table} {NODE_PORT_SET} {{ {inside} }}")
    rules = _fixed_rules(family, network)
    return lines + [f"add rule {table} {chain} {rule}" for chain, rule in rules]


NODE_PORT_SET = "nodeport-ips"
BASE_CHAINS = {
    name: f"type {type_} hook {hook} priority {priority} ;"
    for name, type_, hook, priority in (
        ("filter-prerouting-pre-dnat", "filter", "prerouting", -110),
        ("filter-output-pre-dnat", "filter", "output", -110),
        ("nat-prerouting", "nat", "prerouting", -100),
        ("nat-output", "nat", "output", -100),
        ("filter-input", "filter", "input", 0),
        ("filter-forward", "filter", "forward", 0),
        ("filter-output", "filter", "output", 0),
        ("nat-postrouting", "nat", "postrouting", 100),
    )
}
FIXED_CHAINS = (
    "services",
    "firewall-check",
    "service-endpoints-check",
    "nodeport-endpoints-check",
    "cluster-ips-check",
    "reject-chain",
    "masquerading",
)


def _fixed_rules(family: str, network: Network) -> list[tuple[str, str]]:
    proto_port = "meta l4proto . th dport"
    full = f"{family} daddr . {proto_port}"
    new = "ct state new"
    rules = [
        ("filter-prerouting-pre-dnat", f"{new} jump firewall-check"),
        ("filter-output-pre-dnat", f"{new} jump firewall-check"),
        ("nat-prerouting", "jump services"),
        ("nat-output", "jump services"),
        ("filter-input", f"{new} jump nodeport-endpoints-check"),
        ("filter-input", f"{new} jump service-endpoints-check"),
        ("filter-forward", f"{new} jump service-endpoints-check"),
        ("filter-forward", f"{new} jump cluster-ips-check"),
        ("filter-output", f"{new} jump service-endpoints-check"),
        ("filter-output", f"{new} jump cluster-ips-check"),
        ("nat-postrouting", "jump masquerading"),
        ("firewall-check", f"{full} vmap @firewall-ips"),
        ("service-endpoints-check", f"{full} vmap @no-endpoint-services"),
    ]
    outside = "".join(f" {family} saddr != {cidr}" for cidr in network.pod_cidrs)
    if network.masquerade_all:
        outside = " "
    if outside:
        rules.append(("services", f"{family} daddr @cluster-ips{outside} {MARK_RULE}"))
    rules.append(("services", f"{full} vmap @service-ips"))
    for here in _node_port_matches(family, network):
        rules += [
            ("services", f"{here} {proto_port} vmap @service-nodeports"),
            ("nodeport-endpoints-check", f"{here} {proto_port} vmap @no-endpoint-nodeports"),
        ]
    rules.append(("cluster-ips-check", f"{family} daddr @cluster-ips goto reject-chain"))
    nobody = "goto reject-chain" if network.refuses_unassigned else "drop"
    rules += [
        ("cluster-ips-check", f"{family} daddr {cidr} {nobody}") for cidr in network.service_cidrs
    ]
    hairpin = f"{family} saddr . {family} daddr . {proto_port} @hairpin-connections"
    return [
        *rules,
        ("reject-chain", "meta l4proto tcp reject with tcp reset"),
        ("reject-chain", "reject"),
        (
            "masquerading",
            f"mark and {MARK} != 0 mark set mark xor {MARK} masquerade fully-random",
        ),
        ("masquerading", f"ct status dnat {hairpin} masquerade fully-random"),
    ]


def _node_port_matches(family: str, network: Network) -> list[str]:
    """What a packet to a node port matches. The loopback addresses are never among it: they would
    need `route_localnet`, which opens them to the link (CVE-2020-8558)."""
    loopback = "127.0.0.0/8" if family == "ip" else "::1"
    if PRIMARY in network.node_port_addresses:
        return [f"{family} daddr @{NODE_PORT_SET} {family} daddr != {loopback}"]
    local = f"fib daddr type local {family} daddr != {loopback}"
    if any(cidr.endswith("/0") for cidr in network.node_port_addresses):
        return [local]
    return [f"{family} daddr {cidr} {local}" for cidr in network.node_port_addresses]


@functools.lru_cache(1024)
def chain_name(prefix: str, key: PortKey, suffix: str = "") -> str:
    """A chain's name: a hash keeps it unique, the rest tells a reader whose it is."""
    digest = hashlib.sha256(f"{key}{suffix}".encode()).digest()
    short = base64.b32encode(digest).decode()[:8]
    return f"{prefix}-{short}-{key}{suffix}"[:240]


def rules_of(
    port: ServicePort, backends: Backends, family: str, network: Network, node: str
) -> PortRules:
    """What one Service port needs in the table."""
    return _Writer(port, backends, family, network).write(node)


class _Writer:
    def __init__(
        self, port: ServicePort, backends: Backends, family: str, network: Network
    ) -> None:
        self.port = port
        self.backends = backends
        self.family = family
        self.network = network
        self.rules = PortRules(port.created, self._at(port.cluster_ip))
        self.cluster = chain_name("service", port.key)
        self.local = chain_name("local", port.key)

    def write(self, node: str) -> PortRules:
        port, backends = self.port, self.backends
        self.rules.elements[("cluster-ips", port.cluster_ip)] = ""
        used: set[Endpoint] = set()
        if port.uses_cluster and backends.cluster:
            used.update(backends.cluster)
            self._balance(self.cluster, backends.cluster)
        if port.uses_local and backends.local:
            used.update(backends.local)
            self._balance(self.local, backends.local)
        self._internal()
        if port.is_external:
            self._external()
        for endpoint in used:
            # Slices that people make often name no node: such an endpoint may be a pod of this one.
            if endpoint.node in (node, ""):
                place = f"{endpoint.address} . {endpoint.address}"
                where = f"{place} . {port.key.protocol} . {endpoint.port}"
                self.rules.elements[("hairpin-connections", where)] = ""
        return self.rules

    def _at(self, address: str) -> str:
        return f"{address} . {self.port.key.protocol} . {self.port.port}"

    def _internal(self) -> None:
        at = self.rules.cluster_at
        internal_local = self.port.internal_local
        if self.backends.local if internal_local else self.backends.cluster:
            target = self.local if internal_local else self.cluster
            self.rules.elements[("service-ips", at)] = f"goto {target}"
        else:
            self._refuse("no-endpoint-services", at)

    def _refuse(self, map_: str, key: str) -> None:
        """No endpoint anywhere is an error to the client; endpoints on other nodes only, which the
        policy forbids, are silence, so that a load balancer tries elsewhere."""
        verdict = "drop" if self.backends.any_usable else "goto reject-chain"
        self.rules.elements[(map_, key)] = verdict

    def _external(self) -> None:
        port = self.port
        external = chain_name("external", port.key)
        # Also with endpoints on other nodes only: the node's own clients may use them.
        reachable = bool(self.backends.cluster)
        refused = not (self.backends.local if port.external_local else reachable)
        if reachable:
            self.rules.chains[external] = tuple(self._external_rules())
        where = [
            ("service-ips", "no-endpoint-services", self._at(address))
            for address in (*port.external_ips, *port.load_balancer_ips)
        ]
        if port.node_port:
            at = f"{port.key.protocol} . {port.node_port}"
            where.append(("service-nodeports", "no-endpoint-nodeports", at))
        for map_, refusals, at in where:
            if reachable:
                self.rules.elements[(map_, at)] = f"goto {external}"
            if refused:
                self._refuse(refusals, at)
        if port.source_ranges and port.load_balancer_ips:
            self._firewall()

    def _external_rules(self) -> list[str]:
        if not self.port.external_local:
            return [MARK_RULE, f"goto {self.cluster}"]
        pods = self.network.local_pods or self.network.pod_cidrs
        rules = [f"{self.family} saddr {cidr} goto {self.cluster}" for cidr in pods]
        rules += [
            f"fib saddr type local {MARK_RULE}",
            f"fib saddr type local goto {self.cluster}",
        ]
        if self.backends.local:
            rules.append(f"goto {self.local}")
        return rules

    def _firewall(self) -> None:
        """Only these sources reach the balancer's addresses. Where the node is one of them, the
        addresses are too: a node that asks its own balancer address does so from that address."""
        port = self.port
        name = chain_name("firewall", port.key)
        allowed = list(port.source_ranges)
        ranges = [ipaddress.ip_network(r) for r in allowed]
        if any(ipaddress.ip_address(ip) in r for ip in self.network.node_ips for r in ranges):
            allowed += port.load_balancer_ips
        returns = tuple(f"{self.family} saddr {source} return" for source in allowed)
        self.rules.chains[name] = (*returns, "drop")
        for address in port.load_balancer_ips:
            self.rules.elements[("firewall-ips", self._at(address))] = f"goto {name}"

    def _balance(self, chain: str, endpoints: Sequence[Endpoint]) -> None:
        """Spread connections over endpoints, by chance or by who has come before."""
        port, family = self.port, self.family
        proto = f"meta l4proto {port.key.protocol}"
        count = len(endpoints)
        if not port.affinity_seconds:
            self.rules.chains[chain] = tuple(self._by_chance(proto, endpoints))
            return
        lines = []
        verdicts = []
        for index, endpoint in enumerate(endpoints):
            suffix = f"__{endpoint.address.replace(':', '.')}/{endpoint.port}"
            own = chain_name("endpoint", port.key, suffix)
            # The timeout is part of the name: a set in use cannot get another one.
            members = chain_name("affinity", port.key, f"{suffix}/{port.affinity_seconds}s")
            self.rules.sets[members] = port.affinity_seconds
            self.rules.chains[own] = (
                f"update @{members} {{ {family} saddr }}",
                f"{proto} dnat to {_socket(endpoint)}",
            )
            lines.append(f"{family} saddr @{members} goto {own}")
            verdicts.append(f"{index} : goto {own}")
        lines.append(f"numgen random mod {count} vmap {{ {', '.join(verdicts)} }}")
        self.rules.chains[chain] = tuple(lines)

    def _by_chance(self, proto: str, endpoints: Sequence[Endpoint]) -> list[str]:
        count = len(endpoints)
        if count > BALANCED_BY_RULES:
            targets = ", ".join(f"{i} : {e.address} . {e.port}" for i, e in enumerate(endpoints))
            return [
                f"{proto} dnat {self.family} addr . port to numgen random mod {count} map "
                f"{{ {targets} }}"
            ]
        # The first with a chance of one in n, the next of those that are left, and so on.
        lines = [
            f"{proto} numgen random mod {count - index} 0 dnat to {_socket(endpoint)}"
            for index, endpoint in enumerate(endpoints[:-1])
        ]
        return [*lines, f"{proto} dnat to {_socket(endpoints[-1])}"]


def _socket(endpoint: Endpoint) -> str:
    if ":" in endpoint.address:
        return f"[{endpoint.address}]:{endpoint.port}"
    return f"{endpoint.address}:{endpoint.port}"

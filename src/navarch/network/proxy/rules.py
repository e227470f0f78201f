"""From Services to nftables: one port's chains, sets and map elements as plain text. No I/O.

The layout is upstream's nftables proxy (KEP-3866): verdict maps lead from an address, protocol and
port to the chain of that Service port, so a packet meets three look-ups whatever the number of
Services, and a change of one Service touches its own elements and chains only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from navarch.network.proxy.model import Backends, Endpoint, PortKey, ServicePort

TABLE = "kube-proxy"
MARK = "0x4000"
"""The bit of the packet mark that asks for masquerading on the way out."""
MARK_RULE = f"mark set mark or {MARK}"

Element = tuple[str, str]
"""A map's or set's name, and the key in it."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """What the fixed part of the table needs to know of the node and its cluster."""

    node_ips: tuple[str, ...]
    """Where node ports answer."""
    service_cidrs: tuple[str, ...]
    pod_cidr: str
    """Sources in here are pods; the rest is masqueraded on its way to a ClusterIP."""


@dataclass(slots=True)
class PortRules:
    """Everything that one Service port has in the table."""

    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sets: dict[str, int] = field(default_factory=dict)
    """Affinity sets and their timeout in seconds."""
    elements: dict[Element, str] = field(default_factory=dict)
    """Map elements with their value; a set's elements have the value ""."""


def fixed(family: str, addresses: Addresses) -> list[str]:
    """The commands that make the table anew with all that no Service changes."""
    table = f"{family} {TABLE}"
    addr = "ipv4_addr" if family == "ip" else "ipv6_addr"
    loopback = "127.0.0.0/8" if family == "ip" else "::1"
    lines = [f"add table {table}", f"delete table {table}", f"add table {table}"]
    lines += [
        f"add chain {table} {name} {{ type {type_} hook {hook} priority {priority} ; }}"
        for name, type_, hook, priority in BASE_CHAINS
    ]
    lines += [f"add chain {table} {name}" for name in FIXED_CHAINS]
    full = f"{addr} . inet_proto . inet_service"
    for name, key in (
        ("service-ips", full),
        ("no-endpoint-services", full),
        ("firewall-ips", full),
        ("service-nodeports", "inet_proto . inet_service"),
        ("no-endpoint-nodeports", "inet_proto . inet_service"),
    ):
        lines.append(f"add map {table} {name} {{ type {key} : verdict ; }}")
    lines.append(f"add set {table} cluster-ips {{ type {addr} ; }}")
    lines.append(f"add set {table} nodeport-ips {{ type {addr} ; }}")
    hairpin = f"{addr} . {addr} . inet_proto . inet_service"
    lines.append(f"add set {table} hairpin-connections {{ type {hairpin} ; }}")
    if addresses.node_ips:
        lines.append(f"add element {table} nodeport-ips {{ {', '.join(addresses.node_ips)} }}")
    lines += [
        f"add rule {table} {chain} {rule}"
        for chain, rule in _fixed_rules(family, addresses, loopback)
    ]
    return lines


BASE_CHAINS = (
    ("filter-prerouting-pre-dnat", "filter", "prerouting", "-110"),
    ("filter-output-pre-dnat", "filter", "output", "-110"),
    ("nat-prerouting", "nat", "prerouting", "-100"),
    ("nat-output", "nat", "output", "-100"),
    ("filter-input", "filter", "input", "0"),
    ("filter-forward", "filter", "forward", "0"),
    ("filter-output", "filter", "output", "0"),
    ("nat-postrouting", "nat", "postrouting", "100"),
)
FIXED_CHAINS = (
    "services",
    "firewall-check",
    "service-endpoints-check",
    "nodeport-endpoints-check",
    "cluster-ips-check",
    "reject-chain",
    "masquerading",
)


def _fixed_rules(family: str, addresses: Addresses, loopback: str) -> list[tuple[str, str]]:
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
        (
            "nodeport-endpoints-check",
            f"{family} daddr @nodeport-ips {proto_port} vmap @no-endpoint-nodeports",
        ),
        ("services", f"{full} vmap @service-ips"),
        (
            "services",
            f"{family} daddr @nodeport-ips {family} daddr != {loopback} "
            f"{proto_port} vmap @service-nodeports",
        ),
        ("cluster-ips-check", f"{family} daddr @cluster-ips goto reject-chain"),
        ("reject-chain", "meta l4proto tcp reject with tcp reset"),
        ("reject-chain", "reject"),
        (
            "masquerading",
            f"mark and {MARK} != 0 mark set mark xor {MARK} masquerade fully-random",
        ),
        (
            "masquerading",
            f"ct status dnat {family} saddr . {family} daddr . {proto_port} "
            "@hairpin-connections masquerade fully-random",
        ),
    ]
    if addresses.pod_cidr:
        off_cluster = f"{family} daddr @cluster-ips {family} saddr != {addresses.pod_cidr}"
        rules.insert(0, ("services", f"{off_cluster} {MARK_RULE}"))
    rules += [
        ("cluster-ips-check", f"{family} daddr {cidr} goto reject-chain")
        for cidr in addresses.service_cidrs
    ]
    return rules


def chain_name(prefix: str, key: PortKey, suffix: str = "") -> str:
    """A chain's name: a hash keeps it unique, the rest tells a reader whose it is."""
    digest = hashlib.sha256(f"{key}{suffix}".encode()).digest()
    short = base64.b32encode(digest).decode()[:8]
    return f"{prefix}-{short}-{key}{suffix}"[:240]


def rules_of(
    port: ServicePort, backends: Backends, family: str, addresses: Addresses, node: str
) -> PortRules:
    """What one Service port needs in the table."""
    return _Writer(port, backends, family, addresses).write(node)


class _Writer:
    def __init__(
        self, port: ServicePort, backends: Backends, family: str, addresses: Addresses
    ) -> None:
        self.port = port
        self.backends = backends
        self.family = family
        self.addresses = addresses
        self.rules = PortRules()

    def write(self, node: str) -> PortRules:
        port, backends = self.port, self.backends
        self.rules.elements[("cluster-ips", port.cluster_ip)] = ""
        cluster = chain_name("service", port.key)
        local = chain_name("local", port.key)
        uses_cluster = backends.cluster and (not port.internal_local or port.is_external)
        if uses_cluster:
            self._balance(cluster, backends.cluster)
        if backends.local and (port.internal_local or port.external_local):
            self._balance(local, backends.local)
        self._internal(cluster, local)
        if port.is_external:
            self._external(cluster, local)
        for endpoint in {*backends.cluster, *backends.local}:
            if endpoint.node == node:
                place = f"{endpoint.address} . {endpoint.address}"
                where = f"{place} . {port.key.protocol} . {endpoint.port}"
                self.rules.elements[("hairpin-connections", where)] = ""
        return self.rules

    def _at(self, address: str) -> str:
        return f"{address} . {self.port.key.protocol} . {self.port.port}"

    def _internal(self, cluster: str, local: str) -> None:
        at = self._at(self.port.cluster_ip)
        candidates = self.backends.local if self.port.internal_local else self.backends.cluster
        if candidates:
            target = local if self.port.internal_local else cluster
            self.rules.elements[("service-ips", at)] = f"goto {target}"
        else:
            self._refuse("no-endpoint-services", at)

    def _refuse(self, map_: str, key: str) -> None:
        """No endpoint anywhere is an error to the client; endpoints on other nodes only, which the
        policy forbids, are silence, so that a load balancer tries elsewhere."""
        verdict = "drop" if self.backends.any_usable else "goto reject-chain"
        self.rules.elements[(map_, key)] = verdict

    def _external(self, cluster: str, local: str) -> None:
        port = self.port
        external = chain_name("external", port.key)
        reachable = bool(self.backends.cluster)
        if reachable:
            self.rules.chains[external] = tuple(self._external_rules(cluster, local))
        elif port.external_local and self.backends.local:
            self.rules.chains[external] = (f"goto {local}",)
            reachable = True
        for address in (*port.external_ips, *port.load_balancer_ips):
            at = self._at(address)
            if reachable:
                self.rules.elements[("service-ips", at)] = f"goto {external}"
            if not reachable or (port.external_local and not self.backends.local):
                self._refuse("no-endpoint-services", at)
        if port.node_port:
            at = f"{port.key.protocol} . {port.node_port}"
            if reachable:
                self.rules.elements[("service-nodeports", at)] = f"goto {external}"
            if not reachable or (port.external_local and not self.backends.local):
                self._refuse("no-endpoint-nodeports", at)
        if port.source_ranges and port.load_balancer_ips:
            self._firewall()

    def _external_rules(self, cluster: str, local: str) -> list[str]:
        if not self.port.external_local:
            return [MARK_RULE, f"goto {cluster}"]
        rules = []
        if self.addresses.pod_cidr:
            rules.append(f"{self.family} saddr {self.addresses.pod_cidr} goto {cluster}")
        rules += [f"fib saddr type local {MARK_RULE}", f"fib saddr type local goto {cluster}"]
        if self.backends.local:
            rules.append(f"goto {local}")
        return rules

    def _firewall(self) -> None:
        port = self.port
        name = chain_name("firewall", port.key)
        allowed = ", ".join(port.source_ranges)
        self.rules.chains[name] = (f"{self.family} saddr != {{ {allowed} }} drop",)
        for address in port.load_balancer_ips:
            self.rules.elements[("firewall-ips", self._at(address))] = f"goto {name}"

    def _balance(self, chain: str, endpoints: Sequence[Endpoint]) -> None:
        """Spread connections over endpoints, by chance or by who has come before."""
        port, family = self.port, self.family
        proto = f"meta l4proto {port.key.protocol}"
        count = len(endpoints)
        if not port.affinity_seconds:
            targets = ", ".join(f"{i} : {e.address} . {e.port}" for i, e in enumerate(endpoints))
            self.rules.chains[chain] = (
                f"{proto} dnat {family} addr . port to numgen random mod {count} map "
                f"{{ {targets} }}",
            )
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


def _socket(endpoint: Endpoint) -> str:
    if ":" in endpoint.address:
        return f"[{endpoint.address}]:{endpoint.port}"
    return f"{endpoint.address}:{endpoint.port}"

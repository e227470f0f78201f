"""From policies to the kernel's table: chains, sets and maps as values, and as nft's text. No I/O.

    forward ─┬─ reply of a known connection: accept
    input   ─┤
             ├─ source isolated here?      sources: address -> goto out-<combination>
             └─ destination isolated here? targets: address -> goto in-<combination>

    out-<combination>   jump policy-out-a, jump policy-out-b, drop
    policy-out-a        <peer, port> goto arriving   (the other end must agree as well)
    arriving            targets: address -> goto in-<combination>; accept
    in-<combination>    jump policy-in-a, drop
    policy-in-a         <peer, port> accept

Both hooks see a packet after the Service's address has become a pod's and before its source becomes
the node's. A new connection meets two look-ups, whatever the number of pods, and the rules of the
policies that select its ends; every further packet meets one test. Pods are elements of sets, so
that a pod that comes or goes changes no rule. What the node itself sends passes the output hook
only, where we have nothing: its own pods must always accept it (probes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from navarch.network.policy.model import (
    LAST_PORT,
    Allow,
    Block,
    Key,
    NamedPort,
    Peers,
    Policy,
    PortRange,
)

TABLE = "inet navarch-policy"
FAMILIES = ("ip", "ip6")
INGRESS, EGRESS = "in", "out"
ADDRESS_TYPES = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
MAPS = {EGRESS: "sources", INGRESS: "targets"}
"""The map of a direction leads from an isolated pod's address to its combination of policies."""
ISOLATED, SELF = "isolated", "self"
"""The sets of isolated pods, and of each of them twice (as source and destination)."""
ARRIVING = "arriving"
PODS_LINKS = ("veth*", "cni*")
"""What pods are behind, as the usual plug-ins name it."""

Element = tuple[str, str]
"""A map's or set's name, and the key in it."""


def for_family(name: str, family: str) -> str:
    return f"{name}-4" if family == "ip" else f"{name}-6"


def named_set(port: NamedPort) -> str:
    """The set of (address, protocol, port) of the pods that have a port of this name."""
    return f"named-{port[0]}-{port[1]}"


def peers_set(peers: Iterable[Peers]) -> str:
    return f"peers-{_digest(*map(str, peers))}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a verdict, for the packets to which all the rest applies."""

    verdict: str
    family: str = ""
    side: str = ""
    """`saddr` or `daddr`: which of the addresses is the peer's."""
    peers: str = ""
    """The peer is in this set."""
    blocks: tuple[Block, ...] = ()
    """The peer is in one of these."""
    target: str = ""
    """The destination is this very address."""
    protocol: str = ""
    ports: tuple[tuple[int, int], ...] = ()
    """Of the protocol; none: all of them."""
    named: str = ""
    """The destination, protocol and port are in this set."""

    def __str__(self) -> str:
        words = []
        if self.peers:
            words.append(f"{self.family} {self.side} @{self.peers}")
        if self.blocks:
            words.append(f"{self.family} {self.side} {{ {', '.join(map(str, self.blocks))} }}")
        if self.target:
            words.append(f"{self.family} daddr {self.target}")
        if self.named:
            words.append(f"{self.family} daddr . meta l4proto . th dport @{self.named}")
        if self.ports:
            ranges = ", ".join(
                str(first) if first == last else f"{first}-{last}" for first, last in self.ports
            )
            words.append(f"{self.protocol} dport {{ {ranges} }}")
        elif self.protocol:
            words.append(f"meta l4proto {self.protocol}")
        return " ".join([*words, self.verdict])


DROP = Rule("counter drop")


@dataclass(slots=True)
class Fragment:
    """A part of the table that comes and goes as a whole."""

    chains: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    """Sets and their type."""
    elements: dict[Element, str] = field(default_factory=dict)
    """Map elements with their value; a set's elements have the value ""."""


def policy_chain(direction: str, key: Key) -> str:
    """Names of policies may be longer than those of chains; a hash keeps them apart then."""
    name = f"policy-{direction}-{key[0]}/{key[1]}"
    return name if len(name) <= 120 else f"{name[:100]}-{_digest(name)}"


def combination_chain(direction: str, policies: Iterable[Key]) -> str:
    return f"{direction}-{_digest(*(f'{key[0]}/{key[1]}' for key in sorted(policies)))}"


@dataclass(frozen=True, slots=True)
class Service:
    """What listens on the node itself and is known to policies as a pod: the cluster's DNS."""

    peer: Mapping[str, str]
    """Its labels."""
    namespace: str
    addresses: tuple[str, ...]
    ports: tuple[tuple[str, str, int], ...]
    """Protocol, name and number."""


def dns_service(addresses: Iterable[str]) -> Service:
    """Every node's name server. Policies speak of it as of the pods it runs in elsewhere."""
    ports = (("udp", "dns", 53), ("tcp", "dns-tcp", 53), ("tcp", "metrics", 9153))
    return Service({"k8s-app": "kube-dns"}, "kube-system", tuple(addresses), ports)


def policy_fragment(policy: Policy, services: Mapping[Peers, Iterable[Service]]) -> Fragment:
    """The chains of a policy. `services` says which of the node's own belong to peers."""
    chains = {}
    if policy.ingress is not None:
        writer = _Writer("saddr", "accept", {})
        chains[policy_chain(INGRESS, policy.key)] = writer.rules(policy.ingress)
    if policy.egress is not None:
        writer = _Writer("daddr", f"goto {ARRIVING}", services)
        chains[policy_chain(EGRESS, policy.key)] = writer.rules(policy.egress)
    return Fragment(chains=chains)


class _Writer:
    def __init__(
        self, side: str, verdict: str, services: Mapping[Peers, Iterable[Service]]
    ) -> None:
        self.side = side
        self.verdict = verdict
        self.services = services

    def rules(self, allows: Iterable[Allow]) -> tuple[Rule, ...]:
        found: dict[Rule, None] = {}
        for allow in allows:
            for peer in self._peers(allow):
                found.update(dict.fromkeys(self._on_ports(peer, allow)))
            found.update(dict.fromkeys(self._on_services(allow)))
        return tuple(found)

    def _peers(self, allow: Allow) -> list[Rule]:
        if allow.any_peer:
            return [Rule(self.verdict)]
        rules = []
        for family in FAMILIES:
            if allow.peers:
                name = for_family(peers_set(allow.peers), family)
                rules.append(Rule(self.verdict, family, self.side, peers=name))
            blocks = tuple(each for each in allow.blocks if each.family == family)
            if blocks:
                rules.append(Rule(self.verdict, family, self.side, blocks=blocks))
        return rules

    def _on_ports(self, peer: Rule, allow: Allow) -> Iterable[Rule]:
        if allow.any_port:
            yield peer
            return
        by_protocol: dict[str, list[PortRange]] = {}
        for each in allow.ports:
            by_protocol.setdefault(each.protocol, []).append(each)
        for protocol, ranges in by_protocol.items():
            ports = tuple((each.first, each.last) for each in ranges)
            if ports == ((0, LAST_PORT),):
                ports = ()
            yield _with(peer, protocol=protocol, ports=ports)
        for port in allow.named:
            for family in [peer.family] if peer.family else FAMILIES:
                yield _with(peer, family=family, named=for_family(named_set(port), family))

    def _on_services(self, allow: Allow) -> Iterable[Rule]:
        """The node's own services among the peers, on those of their ports that are allowed."""
        found = {
            id(service): service
            for peers in allow.peers
            for service in self.services.get(peers, ())
        }
        for service in found.values():
            for protocol, name, number in service.ports:
                is_allowed = allow.any_port or (protocol, name) in allow.named
                if not is_allowed and not any(
                    each.protocol == protocol and each.first <= number <= each.last
                    for each in allow.ports
                ):
                    continue
                for address in service.addresses:
                    yield Rule(
                        self.verdict,
                        "ip6" if ":" in address else "ip",
                        target=address,
                        protocol=protocol,
                        ports=((number, number),),
                    )


def _with(
    rule: Rule,
    *,
    family: str = "",
    protocol: str = "",
    ports: tuple[tuple[int, int], ...] = (),
    named: str = "",
) -> Rule:
    return Rule(
        rule.verdict,
        family or rule.family,
        rule.side,
        rule.peers,
        rule.blocks,
        protocol=protocol,
        ports=ports,
        named=named,
    )


def combination_fragment(direction: str, policies: Iterable[Key]) -> Fragment:
    """The chain of the pods that exactly these policies isolate."""
    keys = sorted(policies)
    jumps = [Rule(f"jump {policy_chain(direction, key)}") for key in keys]
    return Fragment(chains={combination_chain(direction, keys): (*jumps, DROP)})


def peers_fragment(name: str) -> Fragment:
    return Fragment(sets={for_family(name, each): ADDRESS_TYPES[each] for each in FAMILIES})


def named_fragment(port: NamedPort) -> Fragment:
    name = named_set(port)
    return Fragment(
        sets={
            for_family(name, family): f"{ADDRESS_TYPES[family]} . inet_proto . inet_service"
            for family in FAMILIES
        }
    )


def fixed() -> list[str]:
    """The commands that make the table anew with all that no policy changes."""
    lines = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
    for family in FAMILIES:
        kind = ADDRESS_TYPES[family]
        lines += [
            f"add map {TABLE} {for_family(name, family)} {{ type {kind} : verdict ; }}"
            for name in MAPS.values()
        ]
        lines += [
            f"add set {TABLE} {for_family(name, family)} {{ type {type_} ; }}"
            for name, type_ in ((ISOLATED, kind), (SELF, f"{kind} . {kind}"))
        ]
    # Before connections are looked up: whoever could speak for another might join in known ones.
    lines.append(f"add chain {TABLE} prerouting {{ type filter hook prerouting priority -300 ; }}")
    # After the translation of Service addresses, before the host's own filters.
    lines += [
        f"add chain {TABLE} {hook} {{ type filter hook {hook} priority -5 ; }}"
        for hook in ("forward", "input")
    ]
    lines += [f"add chain {TABLE} {name}" for name in ("from-pod", "new", ARRIVING)]
    lines += [f"add rule {TABLE} {chain} {rule}" for chain, rule in _FIXED_RULES]
    return lines


_NOT_BEGINNING = "tcp flags & (fin | syn | rst | ack) != syn"
_FIXED_RULES = (
    *(("prerouting", f'iifname "{link}" goto from-pod') for link in PODS_LINKS),
    *((hook, "ct state established,related accept") for hook in ("forward", "input")),
    # Neighbours must be found whatever policies say (RFC 4861).
    *(
        (
            chain,
            "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, "
            "mld-listener-report, mld2-listener-report, mld-listener-done } accept",
        )
        for chain in ("from-pod", "input")
    ),
    *((hook, "goto new") for hook in ("forward", "input")),
    # A pod's own word for its address is taken only where the way back leads to it: or it would
    # pass for another pod, whose policies allow more.
    ("from-pod", "ip saddr != 0.0.0.0 fib saddr . iif oif missing drop"),
    ("from-pod", "meta nfproto ipv6 fib saddr . iif oif missing drop"),
    # An address that every link has tells nothing of who sends.
    ("from-pod", "ip6 saddr fe80::/10 drop"),
    # What continues a connection that the kernel does not know was cut by a policy, or is a lie. It
    # must not become a connection by being taken up in the middle, perhaps from the wrong end.
    *(
        ("new", f"{_NOT_BEGINNING} {family} {side} @{for_family(ISOLATED, family)} drop")
        for family in FAMILIES
        for side in ("saddr", "daddr")
    ),
    # By way of a Service a pod may meet itself, which no policy forbids.
    *(
        ("new", f"{family} saddr . {family} daddr @{for_family(SELF, family)} accept")
        for family in FAMILIES
    ),
    *(("new", f"{family} saddr vmap @{for_family(MAPS[EGRESS], family)}") for family in FAMILIES),
    ("new", f"goto {ARRIVING}"),
    *(
        (ARRIVING, f"{family} daddr vmap @{for_family(MAPS[INGRESS], family)}")
        for family in FAMILIES
    ),
    (ARRIVING, "accept"),
)

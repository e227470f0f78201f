"""Names outside the cluster's zone that are answered here: the hosts of Ingresses and Gateways, and
the lines of the Corefile's `hosts`. No I/O.

A host of an Ingress' rules is answered with the addresses in the Ingress' status, so that pods, and
whoever points a resolver here, reach it without a hosts file. A host without an address yet is left
to the upstream resolvers, as are hosts in the cluster's own zone. The hosts of a Gateway's routes
are in an annotation of its Service, whose addresses are the Gateway's.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import Service
from navarch.api.types.networking_v1 import Ingress
from navarch.network.dns.wire import CNAME, PTR, Record, encode_name, is_name
from navarch.network.dns.zone import (
    DEFAULT_TTL,
    Answer,
    Outcome,
    Tag,
    address_records,
    encode,
    in_domain,
    reverse_address,
    soa_record,
    split_zone,
)
from navarch.network.gateway import HOSTNAMES

HOSTS_TAG: Tag = ("hosts",)
"""What every answer to a foreign name rests on: that no Ingress has it as a host."""
Key = tuple[str, str, str]
"""Kind, namespace and name."""
NOT_HERE = Answer(Outcome.NOT_OURS, tags=(HOSTS_TAG,))


@dataclass(frozen=True, slots=True)
class Host:
    """Where a host is: addresses, or the name of a load balancer."""

    addresses: tuple[str, ...] = ()
    alias: str = ""


def hosts_of(each: Ingress | Service) -> dict[str, Host]:
    """The hosts of an Ingress, or of a Gateway's Service, that has been given an address."""
    if isinstance(each, Ingress):
        names = [rule.host for rule in each.spec.rules]
    else:
        names = each.metadata.annotations.get(HOSTNAMES, "").split(",")
    entries = each.status.loadBalancer.ingress
    addresses = tuple(entry.ip for entry in entries if entry.ip)
    aliases = (entry.hostname for entry in entries if entry.hostname)
    alias = next(filter(is_name, aliases), "")
    if not addresses and not alias:
        return {}
    host = Host(addresses, "" if addresses else alias)
    return {name.lower(): host for name in names if name}


@dataclass(slots=True)
class IngressHosts:
    """The hosts of all Ingresses and Gateways, by name. Several may share one."""

    changed: Callable[[Iterable[Tag]], None] = lambda tags: None
    _hosts: dict[str, dict[Key, Host]] = field(default_factory=lambda: defaultdict(dict))
    _of: dict[Key, dict[str, Host]] = field(default_factory=dict)

    def put(self, each: Ingress | Service) -> None:
        self._replace(each, hosts_of(each))

    def remove(self, each: Ingress | Service) -> None:
        self._replace(each, {})

    def _replace(self, each: Ingress | Service, hosts: dict[str, Host]) -> None:
        key = (type(each).__name__, each.metadata.namespace, each.metadata.name)
        old = self._of.pop(key, {})
        if hosts:
            self._of[key] = hosts
        if old == hosts:
            return
        for name in old:
            del self._hosts[name][key]
            if not self._hosts[name]:
                del self._hosts[name]
        for name, host in hosts.items():
            self._hosts[name][key] = host
        self.changed([HOSTS_TAG])

    def lookup(self, labels: Sequence[str], type_: int, domains: Sequence[str] = ()) -> Answer:
        """The answer for a host (of `domains`, where any are given). A wildcard stands for exactly
        one label, and a host by its own name comes before it."""
        if not self._hosts or not labels:
            return NOT_HERE
        if domains and not any(in_domain(labels, split_zone(each)) for each in domains):
            return NOT_HERE
        found = self._hosts.get(".".join(labels)) or self._hosts.get(".".join(("*", *labels[1:])))
        if not found:
            return NOT_HERE
        name = encode(labels)
        addresses = [address for host in found.values() for address in host.addresses]
        if not addresses:
            alias = next(host.alias for host in found.values())
            record = Record(name, CNAME, DEFAULT_TTL, encode_name(alias))
            return Answer(Outcome.FOUND, [record], tags=(HOSTS_TAG,))
        return _of_type(name, labels, addresses, type_, DEFAULT_TTL)


def _of_type(
    name: bytes, labels: Sequence[str], addresses: Sequence[str], type_: int, ttl: int
) -> Answer:
    records = address_records(name, addresses, type_, ttl)
    if records:
        return Answer(Outcome.FOUND, records, tags=(HOSTS_TAG,))
    authority = soa_record(".".join(labels), ttl)
    return Answer(Outcome.NO_DATA, additional=[authority], tags=(HOSTS_TAG,))


@dataclass(frozen=True, slots=True)
class StaticHosts:
    """The lines of `hosts { ... }`, as in /etc/hosts."""

    lines: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Addresses, each with its names."""
    zones: tuple[str, ...] = ()
    ttl: int = 3600
    reverse: bool = True
    fallthrough: tuple[str, ...] | None = None
    """Zones whose unknown names go on to the next; () is all; None: unknown names do not exist."""

    def lookup(self, labels: Sequence[str], type_: int) -> Answer:
        if self.zones and not any(in_domain(labels, split_zone(zone)) for zone in self.zones):
            return NOT_HERE
        address = reverse_address(labels)
        name = encode(labels)
        if address is not None:
            if not self.reverse:
                return NOT_HERE
            names = [each for known, all_ in self.lines if _same(known, address) for each in all_]
            if names:
                records = [Record(name, PTR, self.ttl, encode_name(each)) for each in names]
                found = records if type_ == PTR else []
                outcome = Outcome.FOUND if found else Outcome.NO_DATA
                return Answer(outcome, found, tags=(HOSTS_TAG,))
        else:
            wanted = ".".join(labels)
            addresses = [known for known, names in self.lines if wanted in names]
            if addresses:
                return _of_type(name, labels, addresses, type_, self.ttl)
        if self.fallthrough is None or (
            self.fallthrough
            and not any(in_domain(labels, split_zone(zone)) for zone in self.fallthrough)
        ):
            return Answer(Outcome.NO_NAME, tags=(HOSTS_TAG,))
        return NOT_HERE


def _same(one: str, other: str) -> bool:
    return ipaddress.ip_address(one) == ipaddress.ip_address(other)

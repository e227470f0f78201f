"""What the proxy has to know of Services and EndpointSlices, as plain values. No I/O.

A Service is taken apart into its ports; an endpoint that several slices name is one endpoint. Which
endpoints a port may use follows KEP-1669 (terminating endpoints), KEP-2433 (topology hints) and the
traffic policies.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import EndpointSlice

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
DEFAULT_AFFINITY_SECONDS = 10800


class PortKey(NamedTuple):
    """One port of one Service."""

    namespace: str
    service: str
    port_name: str
    protocol: str
    """tcp, udp or sctp."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}/{self.protocol}/{self.port_name}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """How one port of a Service is reached, for one address family."""

    key: PortKey
    created: str
    """When the Service was made: of two that claim the same address and port the older has it."""
    cluster_ip: str
    port: int
    node_port: int
    external_ips: tuple[str, ...]
    load_balancer_ips: tuple[str, ...]
    source_ranges: tuple[str, ...]
    internal_local: bool
    external_local: bool
    affinity_seconds: int
    """0: every connection goes anywhere; else a client stays with its endpoint that long."""
    health_check_node_port: int

    @property
    def is_external(self) -> bool:
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)

    @property
    def uses_cluster(self) -> bool:
        """Whether some traffic goes to the endpoints of the whole cluster. The external Local
        policy does not end that: clients on the node itself are outside it."""
        return self.is_external or not self.internal_local

    @property
    def uses_local(self) -> bool:
        return self.internal_local or (self.external_local and self.is_external)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One backend of one port."""

    address: str
    port: int
    ready: bool
    serving: bool
    terminating: bool
    node: str
    zone_hints: frozenset[str]
    node_hints: frozenset[str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where this proxy runs."""

    node: str
    zone: str = ""


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """What a health-check node port tells: how many ready endpoints of a Service are here."""

    namespace: str
    name: str
    port: int
    local_endpoints: int


def is_proxied(service: Service) -> bool:
    """Whether this proxy serves the Service at all."""
    spec = service.spec
    return (
        spec.type != "ExternalName"
        and spec.clusterIP not in ("", "None")
        and PROXY_NAME_LABEL not in service.metadata.labels
    )


def ports_of(service: Service, family: str) -> list[ServicePort]:
    """The ports of a Service in the address family `ip` or `ip6`; none where it has no address."""
    if not is_proxied(service):
        return []
    spec = service.spec
    colon = family == "ip6"

    def mine(addresses: Iterable[str]) -> tuple[str, ...]:
        found = (canonical_address(a) for a in addresses if (":" in a) == colon)
        return tuple(dict.fromkeys(a for a in found if a))

    cluster_ips = mine(spec.clusterIPs or [spec.clusterIP])
    if not cluster_ips:
        return []
    affinity = 0
    if spec.sessionAffinity == "ClientIP":
        config = spec.sessionAffinityConfig
        client = config.clientIP if config is not None else None
        affinity = (client.timeoutSeconds if client is not None else None) or (
            DEFAULT_AFFINITY_SECONDS
        )
    ranges = [n for n in map(_network, spec.loadBalancerSourceRanges) if n is not None]
    ranges = [n for n in ranges if (n.version == 6) == colon]
    if any(n.prefixlen == 0 for n in ranges):
        ranges = []
    needs_check = spec.type == "LoadBalancer" and spec.externalTrafficPolicy == "Local"
    return [
        ServicePort(
            key=PortKey(
                service.metadata.namespace,
                service.metadata.name,
                port.name,
                (port.protocol or "TCP").lower(),
            ),
            created=service.metadata.creationTimestamp or "",
            cluster_ip=cluster_ips[0],
            port=port.port,
            node_port=port.nodePort,
            external_ips=mine(spec.externalIPs),
            load_balancer_ips=mine(
                ingress.ip
                for ingress in service.status.loadBalancer.ingress
                if ingress.ip and (ingress.ipMode or "VIP") == "VIP"
            ),
            source_ranges=tuple(dict.fromkeys(map(str, ranges))),
            internal_local=spec.internalTrafficPolicy == "Local",
            external_local=spec.externalTrafficPolicy == "Local",
            affinity_seconds=affinity,
            health_check_node_port=spec.healthCheckNodePort if needs_check else 0,
        )
        for port in spec.ports
    ]


@functools.lru_cache(4096)
def canonical_address(address: str) -> str:
    """An address as the kernel writes it; "" if it is none. Old objects may spell IPv4 with leading
    zeros, which mean nothing there."""
    address = address.strip()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if family == socket.AF_INET:
        address = ".".join(part.lstrip("0") or "0" for part in address.split("."))
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, address))
    except OSError:
        return ""


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    address, slash, length = text.strip().partition("/")
    try:
        return ipaddress.ip_network(f"{canonical_address(address)}{slash}{length}", strict=False)
    except ValueError:
        return None


def endpoints_of(slices: Iterable[EndpointSlice], family: str) -> Mapping[PortKey, list[Endpoint]]:
    """The endpoints of each port of one Service, from all its slices, sorted."""
    wanted = "IPv4" if family == "ip" else "IPv6"
    found: dict[PortKey, dict[tuple[str, int], Endpoint]] = {}
    for slice_ in slices:
        if slice_.addressType != wanted or HEADLESS_LABEL in slice_.metadata.labels:
            continue
        service = slice_.metadata.labels.get("kubernetes.io/service-name", "")
        for port in slice_.ports:
            if port.name is None or not port.port:
                continue
            protocol = (port.protocol or "TCP").lower()
            key = PortKey(slice_.metadata.namespace, service, port.name, protocol)
            backends = found.setdefault(key, {})
            for endpoint in _endpoints(slice_, port.port):
                place = (endpoint.address, endpoint.port)
                other = backends.get(place)
                if other is None or (other.terminating and not endpoint.terminating):
                    backends[place] = endpoint
    return {
        key: sorted(backends.values(), key=lambda e: (e.address, e.port))
        for key, backends in found.items()
    }


def _endpoints(slice_: EndpointSlice, port: int) -> Iterable[Endpoint]:
    for endpoint in slice_.endpoints:
        address = canonical_address(endpoint.addresses[0]) if endpoint.addresses else ""
        if not address:
            continue
        conditions = endpoint.conditions
        hints = endpoint.hints
        yield Endpoint(
            address=address,
            port=port,
            ready=conditions.ready is not False,
            serving=conditions.serving is not False,
            terminating=bool(conditions.terminating),
            node=endpoint.nodeName or "",
            zone_hints=frozenset(zone.name for zone in hints.forZones) if hints else frozenset(),
            node_hints=frozenset(node.name for node in hints.forNodes) if hints else frozenset(),
        )


def usable(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """The ready ones, or where none is ready those that still serve while they terminate."""
    all_ = list(endpoints)
    return [e for e in all_ if e.ready] or [e for e in all_ if e.serving and e.terminating]


def nearest(endpoints: Sequence[Endpoint], place: Place) -> Sequence[Endpoint]:
    """Those that the slices' hints give to this node, or to its zone; all where hints lack."""
    ready = [e for e in endpoints if e.ready]
    if not ready:
        return endpoints
    if all(e.node_hints for e in ready) and any(place.node in e.node_hints for e in ready):
        return [e for e in ready if place.node in e.node_hints]
    if (
        place.zone
        and all(e.zone_hints for e in ready)
        and any(place.zone in e.zone_hints for e in ready)
    ):
        return [e for e in ready if place.zone in e.zone_hints]
    return endpoints


@dataclass(frozen=True, slots=True)
class Backends:
    """What a port may use: under the Cluster policy, and under the Local one."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    any_usable: bool
    """Whether some node has a usable endpoint, which decides between reject and drop."""


def select(endpoints: Sequence[Endpoint], place: Place) -> Backends:
    """The endpoints that a port may use from here."""
    everywhere = usable(endpoints)
    here = usable(e for e in endpoints if e.node and e.node == place.node)
    return Backends(tuple(nearest(everywhere, place)), tuple(here), bool(everywhere))

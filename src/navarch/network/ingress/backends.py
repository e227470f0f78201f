"""Services and EndpointSlices as endpoints of the data plane.

nginx speaks to the pods themselves, not to the Service's address: so it can try another pod when
one fails, keep a client with its pod, and knows at once when there is none (503). Only endpoints
that are ready count; one that terminates is not ready, gets no new request, and finishes those it
has. An ExternalName is resolved by the controller and has its addresses given here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import Service, ServicePort
from navarch.api.types.discovery_v1 import EndpointSlice

SERVICE_NAME = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Services:
    """What is known about Services, by look-ups."""

    service: Callable[[str], Service | None]
    """By namespace/name."""
    slices: Callable[[str], Sequence[EndpointSlice]]
    """Of the Service namespace/name."""
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What names of ExternalName Services resolve to."""


@dataclass(frozen=True, slots=True)
class Target:
    """A port of a Service. Without `problem` it exists, with or without endpoints."""

    upstream: str
    service: str
    port: str
    endpoints: tuple[str, ...] = ()
    problem: str = ""
    external_name: str = ""


def find_port(service: Service, port: str | int) -> ServicePort | None:
    """A Service's port by its name or number; without either its first."""
    for each in service.spec.ports:
        if port in ("", 0) or (each.port == port if isinstance(port, int) else each.name == port):
            return each
    return None


@dataclass(frozen=True, slots=True)
class Reference:
    """A port of a Service by name or number; neither means its first."""

    namespace: str
    name: str
    port: str | int
    by_cluster_ip: bool = False


def target(services: Services, reference: Reference) -> Target:
    """What a backend reference means. The upstream's name is unique: neither namespaces nor names
    of Services have slashes."""
    name, port, by_cluster_ip = reference.name, reference.port, reference.by_cluster_ip
    key = f"{reference.namespace}/{name}"
    upstream = f"{key}/{port}{'/vip' if by_cluster_ip else ''}"
    service = services.service(key)
    if service is None:
        return Target(upstream, name, str(port), problem=f"Service {key} does not exist")
    if service.spec.type == "ExternalName":
        return _external(services, service, upstream, port)
    found = find_port(service, port)
    if found is None:
        return Target(upstream, name, str(port), problem=f"Service {key} has no port {port}")
    if by_cluster_ip:
        virtual = service.spec.clusterIP
        if virtual in ("", "None"):
            return Target(upstream, name, str(port), problem=f"Service {key} has no cluster IP")
        return Target(upstream, name, str(found.port), (socket_address(virtual, found.port),))
    endpoints = ready_endpoints(services.slices(key), found.name)
    return Target(upstream, name, str(found.port), endpoints)


def _external(services: Services, service: Service, upstream: str, port: str | int) -> Target:
    name = service.spec.externalName.rstrip(".")
    found = find_port(service, port)
    number = found.port if found is not None else port
    if not isinstance(number, int) or number == 0:
        problem = f"Service {service.metadata.namespace}/{service.metadata.name} has no port {port}"
        return Target(upstream, service.metadata.name, str(port), problem=problem)
    addresses = services.addresses.get(name, ())
    return Target(
        upstream,
        service.metadata.name,
        str(number),
        tuple(socket_address(address, number) for address in addresses),
        external_name=name,
    )


def ready_endpoints(slices: Sequence[EndpointSlice], port_name: str) -> tuple[str, ...]:
    """The addresses to send requests to, sorted. Of a Service with two families those of IPv4."""
    found: dict[str, set[str]] = {}
    for slice_ in slices:
        ports = [
            port.port
            for port in slice_.ports
            if (port.name or "") == (port_name or "") and port.port and port.protocol != "UDP"
        ]
        for endpoint in slice_.endpoints:
            if endpoint.conditions.ready is False:
                continue
            found.setdefault(slice_.addressType, set()).update(
                socket_address(address, port) for address in endpoint.addresses for port in ports
            )
    chosen = found.get("IPv4") or found.get("IPv6") or ()
    return tuple(sorted(chosen))


def socket_address(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def endpoints_of(
    services: Services, references: Mapping[str, Reference]
) -> dict[str, tuple[str, ...]]:
    """The endpoints of all upstreams that have any."""
    found = {name: target(services, each).endpoints for name, each in references.items()}
    return {name: endpoints for name, endpoints in found.items() if endpoints}

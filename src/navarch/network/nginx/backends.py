"""Services and EndpointSlices as endpoints of the data plane.

nginx speaks to the pods themselves, not to the Service's address: so it can try another pod when
one fails, keep a client with its pod, and knows at once when there is none (503). Only endpoints
that are ready count; one that terminates is not ready, gets no new request, and finishes those it
has. An ExternalName is resolved by the controller and has its addresses given here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from navarch.api.types.core_v1 import Secret, Service, ServicePort
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
    found = Target(f"{key}/{port}{'/vip' if by_cluster_ip else ''}", name, str(port))
    service = services.service(key)
    if service is None:
        return replace(found, problem=f"Service {key} does not exist")
    of_service = find_port(service, port)
    number = of_service.port if of_service is not None else port
    if service.spec.type == "ExternalName" and isinstance(number, int) and number != 0:
        outside = service.spec.externalName.rstrip(".")
        addresses = services.addresses.get(outside, ())
        endpoints = tuple(socket_address(address, number) for address in addresses)
        return replace(found, port=str(number), endpoints=endpoints, external_name=outside)
    if of_service is None:
        return replace(found, problem=f"Service {key} has no port {port}")
    if not by_cluster_ip:
        endpoints = ready_endpoints(services.slices(key), of_service.name)
    elif (virtual := service.spec.clusterIP) in ("", "None"):
        return replace(found, problem=f"Service {key} has no cluster IP")
    else:
        endpoints = (socket_address(virtual, of_service.port),)
    return replace(found, port=str(of_service.port), endpoints=endpoints)


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


def services_of(slice_: EndpointSlice) -> list[str]:
    """The Service that a slice is of."""
    name = slice_.metadata.labels.get(SERVICE_NAME, "")
    return [f"{slice_.metadata.namespace}/{name}"] if name else []


@dataclass(slots=True)
class Around:
    """What is referred to. Everything that is asked for is noted, as that is what has to be
    followed."""

    services: Services
    secret: Callable[[str], Secret | None]
    """By namespace/name."""
    secrets_wanted: set[str] = field(default_factory=set, kw_only=True)
    services_wanted: set[str] = field(default_factory=set, kw_only=True)
    names_wanted: set[str] = field(default_factory=set, kw_only=True)
    """Of ExternalName Services."""
    targets: dict[str, Reference] = field(default_factory=dict, kw_only=True)
    """By upstream: what leads there."""
    upstreams: dict[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)

    def find_secret(self, key: str) -> Secret | None:
        self.secrets_wanted.add(key)
        return self.secret(key)

    def find_target(
        self, namespace: str, name: str, port: str | int, by_cluster_ip: bool = False
    ) -> Target:
        self.services_wanted.add(f"{namespace}/{name}")
        reference = Reference(namespace, name, port, by_cluster_ip)
        found = target(self.services, reference)
        self.targets[found.upstream] = reference
        if found.external_name:
            self.names_wanted.add(found.external_name)
        if found.endpoints:
            self.upstreams[found.upstream] = found.endpoints
        return found

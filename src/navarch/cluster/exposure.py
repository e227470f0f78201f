"""At which addresses and ports a Service is reached from this machine, read off its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ExposedPort:
    """`name` is minikube's: name and number of the Service's port, or the number alone."""

    address: str
    port: int
    name: str
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Exposed:
    """A Service and where it is reached."""

    namespace: str
    name: str
    type: str
    outside: tuple[ExposedPort, ...] = ()
    """By an address of a load balancer, or a node's address and port."""
    inside: tuple[ExposedPort, ...] = ()
    """By the cluster's own addresses, which this machine has a route to."""
    is_pending: bool = False
    """An address is promised and not there yet."""

    @property
    def places(self) -> tuple[ExposedPort, ...]:
        return self.outside or self.inside


def exposed(service: Mapping[str, Any], node_address: str) -> Exposed:
    meta, spec = service["metadata"], service["spec"]
    ports = spec.get("ports") or ()
    kind = spec.get("type") or "ClusterIP"
    balancers = addresses_of(service)

    def places(address: str, key: str) -> tuple[ExposedPort, ...]:
        return tuple(
            ExposedPort(address, port[key], _name(port), port.get("protocol") or "TCP")
            for port in ports
            if port.get(key)
        )

    outside = tuple(place for address in balancers for place in places(address, "port"))
    if not outside and node_address:
        outside = places(node_address, "nodePort")
    cluster_ip = spec.get("clusterIP") or "None"
    return Exposed(
        namespace=meta["namespace"],
        name=meta["name"],
        type=kind,
        outside=outside,
        inside=places(cluster_ip, "port") if cluster_ip != "None" else (),
        is_pending=kind == "LoadBalancer" and not balancers,
    )


def addresses_of(service: Mapping[str, Any]) -> list[str]:
    """The addresses of the Service's load balancer that nodes answer for themselves."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [each["ip"] for each in ingress if each.get("ip") and each.get("ipMode", "VIP") == "VIP"]


def _name(port: Mapping[str, Any]) -> str:
    return f"{port['name']}/{port['port']}" if port.get("name") else str(port["port"])

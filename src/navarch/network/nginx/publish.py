"""Where nginx is, for the Services that lead to it.

Every node with an nginx has EndpointSlices of its own for such a Service, so the Service leads to
all of them, and with the policy `Local` a load balancer's address is announced by one of these
nodes. A node's slices are written by its own controller, and taken back when it ends. One that is
lost cannot do that: then the controller that leads does, as upstream's endpoints are no longer
ready once the node lifecycle controller has declared their node lost. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from navarch.api.types.core_v1 import Node, Service
from navarch.api.types.discovery_v1 import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
)
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.network.nginx.backends import SERVICE_NAME

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
READY = EndpointConditions(ready=True, serving=True, terminating=False)


@dataclass(frozen=True, slots=True)
class Place:
    """A node and the addresses on which its nginx listens."""

    node: str
    addresses: tuple[str, ...]


def owner(version: str, kind: str, metadata: ObjectMeta) -> OwnerReference:
    return OwnerReference(
        apiVersion=version, kind=kind, name=metadata.name, uid=metadata.uid, controller=True
    )


def slices_of(
    service: Service, place: Place, ports: Mapping[str, int], manager: str
) -> list[EndpointSlice]:
    """A node's slices of a Service: one for each family of addresses. `ports` are by name."""
    families: dict[str, list[str]] = {}
    for each in place.addresses:
        families.setdefault("IPv6" if ":" in each else "IPv4", []).append(each)
    name, namespace = service.metadata.name, service.metadata.namespace
    return [
        EndpointSlice(
            metadata=ObjectMeta(
                name=f"{name}-{family.lower()}-{place.node}"[:253],
                namespace=namespace,
                labels={SERVICE_NAME: name, MANAGED_BY: manager},
                ownerReferences=[owner("v1", "Service", service.metadata)],
            ),
            addressType=family,
            endpoints=[
                Endpoint(addresses=[each], conditions=READY, nodeName=place.node)
                for each in addresses
            ],
            ports=[EndpointPort(name=key, protocol="TCP", port=ports[key]) for key in ports],
        )
        for family, addresses in sorted(families.items())
    ]


def live(nodes: Iterable[Node]) -> set[str]:
    """The nodes that are there, as far as anybody knows. One that says itself that it is not ready
    is not lost."""
    return {
        node.metadata.name
        for node in nodes
        if not any(
            each.type == "Ready" and each.status == "Unknown" for each in node.status.conditions
        )
    }


@dataclass(frozen=True, slots=True)
class Changes:
    applied: tuple[EndpointSlice, ...]
    deleted: tuple[EndpointSlice, ...]


def changes(
    present: Iterable[EndpointSlice],
    wanted: Iterable[EndpointSlice],
    node: str,
    live_nodes: AbstractSet[str],
    *,
    leads: bool,
) -> Changes:
    """What is to be written. `present` are slices of our manager, of all nodes; `wanted` are this
    node's own. A node that counts as lost wants none, or its controller and the one that leads
    would write against each other."""
    desired = {_key(each): each for each in wanted} if node in live_nodes else {}
    there = {_key(each): each for each in present}
    gone = [
        each
        for key, each in there.items()
        if key not in desired
        and ((of := _node_of(each)) == node or (leads and of not in live_nodes))
    ]
    fresh = [
        each for key, each in desired.items() if key not in there or not _is_as(there[key], each)
    ]
    return Changes(tuple(fresh), tuple(gone))


def _key(each: EndpointSlice) -> str:
    return f"{each.metadata.namespace}/{each.metadata.name}"


def _node_of(each: EndpointSlice) -> str | None:
    return next((endpoint.nodeName for endpoint in each.endpoints), "")


def _is_as(there: EndpointSlice, wanted: EndpointSlice) -> bool:
    return (there.endpoints, there.ports, there.metadata.ownerReferences) == (
        wanted.endpoints,
        wanted.ports,
        wanted.metadata.ownerReferences,
    ) and wanted.metadata.labels.items() <= there.metadata.labels.items()

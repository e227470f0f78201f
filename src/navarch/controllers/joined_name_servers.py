"""The name servers of machines that have joined, as endpoints of the Service kube-dns.

Every node runs a name server of its own, and the Service leads a pod to that of its node
(`internalTrafficPolicy: Local`). Those of the cluster's own nodes are known when it starts; a
machine that joins bears a label, by which this adds its own to slices beside theirs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Node, Service
from navarch.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Controller, ControllerContext

LABEL = "navarch.dev/joined"
NAMESPACE, SERVICE = "kube-system", "kube-dns"
NAMES = {"IPv4": "kube-dns-joined", "IPv6": "kube-dns-joined-ipv6"}


def endpoints(nodes: Iterable[Node], address_type: str) -> list[Endpoint]:
    """One for each node that has joined and has an address of this family."""
    found = []
    for node in sorted(nodes, key=lambda each: each.metadata.name):
        own = [each.address for each in node.status.addresses if each.type == "InternalIP"]
        fitting = [each for each in own if _type_of(each) == address_type]
        if LABEL in node.metadata.labels and fitting:
            conditions = EndpointConditions(ready=True, serving=True, terminating=False)
            found.append(
                Endpoint(addresses=fitting[:1], nodeName=node.metadata.name, conditions=conditions)
            )
    return found


def _type_of(address: str) -> str:
    """What slices call its family; "" of what a node claims to be an address and is none."""
    try:
        return f"IPv{ipaddress.ip_address(address).version}"
    except ValueError:
        return ""


class JoinedNameServers(Controller):
    """Watches: nodes that have joined, by one key."""

    name = "joined-name-servers"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.nodes = context.informers.informer(Node)
        self.watch(self.nodes, lambda node: SERVICE if LABEL in node.metadata.labels else None)
        self._written: dict[str, list[Endpoint]] = {}
        # A machine may have left while nobody looked.
        self.enqueue(SERVICE)

    async def reconcile(self, key: str) -> None:
        nodes = self.nodes.cache.list()
        for address_type, name in NAMES.items():
            wanted = endpoints(nodes, address_type)
            if wanted != self._written.get(address_type):
                await self._write(name, address_type, wanted)
                self._written[address_type] = wanted

    async def _write(self, name: str, address_type: str, wanted: list[Endpoint]) -> None:
        slices = self.client.resource(EndpointSlice)
        try:
            present = await slices.get(name, NAMESPACE)
        except ApiError as error:
            if not error.is_not_found:
                raise
            if not wanted:
                return
            service = await self.client.resource(Service).get(SERVICE, NAMESPACE)
            labels = {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": "navarch",
            }
            await slices.create(
                EndpointSlice(
                    metadata=ObjectMeta(name=name, namespace=NAMESPACE, labels=labels),
                    addressType=address_type,
                    ports=[
                        EndpointPort(name=each.name, port=each.port, protocol=each.protocol)
                        for each in service.spec.ports
                    ],
                    endpoints=wanted,
                )
            )
            return
        if present.endpoints != wanted:
            present.endpoints = wanted
            await slices.update(present)

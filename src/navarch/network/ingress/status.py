"""Where Ingresses can be reached, in their status, and where nginx is, for its Service.

Each node with an nginx writes an EndpointSlice of its own for the Service
`ingress-nginx/ingress-nginx-controller`; so the Service leads to all of them. One of the
controllers, by election, writes into each Ingress what the Service's addresses are: those of its
load balancer, else external ones, else the nodes'.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import (
    Ingress,
    IngressLoadBalancerIngress,
    IngressLoadBalancerStatus,
)
from navarch.client.client import Client
from navarch.client.clock import timeout
from navarch.client.controller import ControllerContext
from navarch.client.leader import LeaderElector, LeadershipLost
from navarch.network.ingress.backends import SERVICE_NAME
from navarch.network.ingress.translate import Ports

log = logging.getLogger("navarch.network.ingress")

MANAGED_BY = "ingress.navarch.dev"
LEASE = "ingress-nginx-leader"
GATHER_SECONDS = 0.1
STOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Published:
    """The Service that leads to nginx, and this node's part of it."""

    namespace: str
    name: str
    node: str
    addresses: tuple[str, ...]
    ports: Ports

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def slices(published: Published) -> list[EndpointSlice]:
    """This node's EndpointSlices: one for each family that it has addresses of."""
    found = []
    for family, has_colon in (("IPv4", False), ("IPv6", True)):
        addresses = [each for each in published.addresses if (":" in each) == has_colon]
        if not addresses:
            continue
        ready = EndpointConditions(ready=True, serving=True, terminating=False)
        found.append(
            EndpointSlice(
                metadata=ObjectMeta(
                    name=f"{published.name}-{published.node}-{family.lower()}"[:253],
                    namespace=published.namespace,
                    labels={
                        SERVICE_NAME: published.name,
                        "endpointslice.kubernetes.io/managed-by": MANAGED_BY,
                    },
                ),
                addressType=family,
                endpoints=[
                    Endpoint(addresses=[each], conditions=ready, nodeName=published.node)
                    for each in addresses
                ],
                ports=[
                    EndpointPort(name="http", protocol="TCP", port=published.ports.http),
                    EndpointPort(name="https", protocol="TCP", port=published.ports.https),
                ],
            )
        )
    return found


def addresses_of(
    service: Service | None, endpoints: Sequence[EndpointSlice], own: Sequence[str]
) -> list[IngressLoadBalancerIngress]:
    """What the status of every Ingress says, by upstream's order of preference."""
    if service is not None:
        balanced = service.status.loadBalancer.ingress
        if balanced:
            return [
                IngressLoadBalancerIngress(ip=each.ip, hostname=each.hostname) for each in balanced
            ]
        if service.spec.externalIPs:
            return [IngressLoadBalancerIngress(ip=each) for each in service.spec.externalIPs]
    nodes = {address for each in endpoints for one in each.endpoints for address in one.addresses}
    return [IngressLoadBalancerIngress(ip=each) for each in sorted(nodes or own)]


class StatusWriter:
    """`run` writes until it is cancelled; `clear` takes everything back."""

    def __init__(
        self,
        context: ControllerContext,
        published: Published,
        ours: Callable[[], Sequence[Ingress]],
    ) -> None:
        self._client: Client = context.client
        self._clock = context.clock
        self._published = published
        self._ours = ours
        informers = context.informers
        self._services = informers.informer(Service)
        self._slices = informers.informer(EndpointSlice)
        self._elector = LeaderElector(
            context.client, LEASE, published.node, namespace=published.namespace
        )
        self._led = False
        """Also after the end of leadership that was not lost: the last to lead takes back."""
        self._changed = asyncio.Event()
        self._changed.set()
        for informer in (self._services, self._slices, informers.informer(Ingress)):
            informer.add_handler(self._wake, self._wake, self._wake)

    async def run(self) -> None:
        """Publish this node, then write statuses whenever this controller leads."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish_again_and_again(), name="ingress endpoints")
            group.create_task(self._lead(), name="ingress status")

    async def _lead(self) -> None:
        while True:
            with contextlib.suppress(LeadershipLost):
                await self._elector.run(self._write)
            self._led = False
            self._changed.set()

    async def clear(self) -> None:
        """This node serves no more: its endpoints go, and if it was the last, the statuses."""
        resource = self._client.resource(EndpointSlice)
        with contextlib.suppress(ApiError, OSError, TimeoutError):
            async with timeout(self._clock, STOP_SECONDS):
                own = {each.metadata.name for each in slices(self._published)}
                for name in own:
                    try:
                        await resource.delete(name, self._published.namespace)
                    except ApiError as error:
                        if not error.is_not_found:
                            raise
                others = [each for each in self._endpoints() if each.metadata.name not in own]
                if self._led and not others:
                    for ingress in self._ours():
                        await self._write_one(ingress, [])

    async def _publish_again_and_again(self) -> None:
        """The Service may come later than we do, or be made anew: its slices then, too."""
        while True:
            if self._services.cache.get(self._published.key) is not None:
                await self._publish()
            await self._clock.sleep(5.0)

    async def _publish(self) -> None:
        resource = self._client.resource(EndpointSlice)
        for wanted in slices(self._published):
            key = f"{wanted.metadata.namespace}/{wanted.metadata.name}"
            present = self._slices.cache.get(key)
            try:
                if present is None:
                    await resource.create(wanted)
                elif (present.endpoints, present.ports) != (wanted.endpoints, wanted.ports):
                    changed = copy_object(present)
                    changed.endpoints, changed.ports = wanted.endpoints, wanted.ports
                    await resource.update(changed)
            except ApiError as error:
                if not (error.is_conflict or error.is_already_exists):
                    log.warning("%s: %s", key, error)

    def _endpoints(self) -> list[EndpointSlice]:
        return [
            each
            for each in self._slices.cache.list(self._published.namespace)
            if each.metadata.labels.get(SERVICE_NAME) == self._published.name
        ]

    async def _write(self) -> None:
        self._led = True
        while True:
            await self._changed.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._changed.clear()
            service = self._services.cache.get(self._published.key)
            wanted = addresses_of(service, self._endpoints(), self._published.addresses)
            for ingress in self._ours():
                await self._write_one(ingress, wanted)

    async def _write_one(self, ingress: Ingress, wanted: list[IngressLoadBalancerIngress]) -> None:
        if ingress.status.loadBalancer.ingress == wanted:
            return
        changed = copy_object(ingress)
        changed.status.loadBalancer = IngressLoadBalancerStatus(ingress=wanted)
        try:
            await self._client.resource(Ingress).update_status(changed)
        except ApiError as error:
            if error.is_conflict:
                self._changed.set()
            elif not error.is_not_found:
                log.warning("status of %s: %s", ingress.metadata.name, error)

    def _wake(self, *_: object) -> None:
        self._changed.set()

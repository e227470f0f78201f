"""The controller of ServiceCIDRs: a range of cluster addresses goes only when nobody needs it.

Each range gets a finalizer and the condition `Ready`. One that is being deleted stays, not ready,
while there are addresses in it that no other range would hold; and a few seconds longer, until
every API server has seen that nothing is to be given from it any more.
Source: KEP-1880; upstream's `pkg/controller/servicecidrs`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from datetime import timedelta

from navarch.api.times import format_time, parse_time
from navarch.api.types.networking_v1 import IPAddress, ServiceCIDR
from navarch.client import Controller, ControllerContext, PatchType
from navarch.controllers.pods import find_condition

FINALIZER = "networking.k8s.io/service-cidr-finalizer"
MANAGED_BY = "ipaddress.kubernetes.io/managed-by"
ALLOCATOR = "ipallocator.k8s.io"
MANAGER = "service-cidr-controller"
GRACE = timedelta(seconds=10)
READY = ("True", "", "Kubernetes Service CIDR is ready")
BLOCKED = (
    "False",
    "Terminating",
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new "
    "ServiceCIDR",
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(cidr: ServiceCIDR) -> Iterator[Network]:
    for text in cidr.spec.cidrs:
        try:
            yield ipaddress.ip_network(text)
        except ValueError:
            continue


def contains(outer: Network, inner: Network) -> bool:
    return (
        outer.version == inner.version
        and outer.prefixlen <= inner.prefixlen
        and inner.network_address in outer
    )


def is_needed(cidr: ServiceCIDR, others: Iterable[ServiceCIDR], addresses: Iterable[str]) -> bool:
    """Whether addresses would be without a range if this one went. Those that are going too count
    as ranges all the same: of two that overlap one has to be the first."""
    kept = [network for other in others for network in networks(other)]
    own = [
        network for network in networks(cidr) if not any(contains(outer, network) for outer in kept)
    ]
    for text in addresses:
        address = ipaddress.ip_address(text)
        is_inside = any(address in network for network in own)
        if is_inside and not any(address in network for network in kept):
            return True
    return False


class ServiceCidrController(Controller):
    """Watches: ServiceCIDRs, each by all that overlap it; addresses, by the ranges they are in."""

    name = "servicecidr"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.cidrs = context.informers.informer(ServiceCIDR)
        self.addresses = context.informers.informer(IPAddress)
        self.watch(self.cidrs, self._with_overlapping)
        self.depends_on(self.addresses)
        # An address that comes can only block what is not blocked yet; one that goes frees.
        self.addresses.add_handler(self._seen, None, self._seen)

    def _with_overlapping(self, cidr: ServiceCIDR) -> list[str]:
        own = [*networks(cidr)]
        return [cidr.metadata.name] + [
            other.metadata.name
            for other in self.cidrs.cache.list()
            if any(contains(a, b) or contains(b, a) for a in own for b in networks(other))
        ]

    def _seen(self, address: IPAddress) -> None:
        if address.metadata.labels.get(MANAGED_BY) != ALLOCATOR:
            return
        place = ipaddress.ip_address(address.metadata.name)
        for cidr in self.cidrs.cache.list():
            if cidr.metadata.deletionTimestamp and any(place in each for each in networks(cidr)):
                self.queue.add(cidr.metadata.name)

    async def reconcile(self, key: str) -> None:
        cidr = self.cidrs.cache.get(key)
        if cidr is None:
            return
        deleted = cidr.metadata.deletionTimestamp
        if not deleted:
            if FINALIZER not in cidr.metadata.finalizers:
                await self._patch(key, {"finalizers": [FINALIZER]})
            await self._tell(cidr, READY)
            return
        others = [other for other in self.cidrs.cache.list() if other.metadata.name != key]
        managed = (
            address.metadata.name
            for address in self.addresses.cache.list()
            if address.metadata.labels.get(MANAGED_BY) == ALLOCATOR
        )
        if is_needed(cidr, others, managed):
            await self._tell(cidr, BLOCKED)
            return
        left = parse_time(deleted) + GRACE - self.clock.now()
        if left > timedelta():
            self.queue.add_after(key, left.total_seconds())
        elif FINALIZER in cidr.metadata.finalizers:
            await self._patch(key, {"$deleteFromPrimitiveList/finalizers": [FINALIZER]})

    async def _patch(self, name: str, metadata: dict[str, list[str]]) -> None:
        resource = self.client.resource(ServiceCIDR)
        await resource.patch(name, "", {"metadata": metadata}, patch_type=PatchType.STRATEGIC)

    async def _tell(self, cidr: ServiceCIDR, wanted: tuple[str, str, str]) -> None:
        present = find_condition(cidr.status.conditions, "Ready")
        if present is not None and (present.status, present.reason, present.message) == wanted:
            return
        condition = dict(zip(("status", "reason", "message"), wanted, strict=True))
        condition |= {"type": "Ready", "lastTransitionTime": format_time(self.clock.now())}
        status = {"conditions": [condition]}
        await self.client.resource(ServiceCIDR).apply_status(cidr, status, MANAGER)

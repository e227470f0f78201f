"""What the quota controller counts: an informer for each resource that some quota limits.

They are followed from the first quota on that names them, so that a cluster without quotas pays for
none. Where another controller of the process follows all objects of a resource already, its
informer is used; what is only counted is kept without its content.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from navarch.api.errors import ApiError
from navarch.api.objects import Object, to_object
from navarch.api.types.core_v1 import PersistentVolumeClaim, Pod, Service
from navarch.api.types.resource_v1 import DeviceClass, ResourceClaim
from navarch.client import ControllerContext, Informer
from navarch.client.objects import AnyObject, Codec, identify
from navarch.client.resource import ResourceClient, ResourcePath
from navarch.controllers.discovery import discover
from navarch.controllers.garbage_collector_monitors import SlimObject, path_of, untouched

SYNC_SECONDS = 10.0
CLAIMS, CLASSES = "resourceclaims.resource.k8s.io", "deviceclasses.resource.k8s.io"
TYPED: Mapping[str, type[Any]] = {
    "pods": Pod,
    "services": Service,
    "persistentvolumeclaims": PersistentVolumeClaim,
    CLAIMS: ResourceClaim,
    CLASSES: DeviceClass,
}
"""Resources of which more is counted than how many there are, or that decide what others count as.
"""


def relevant(obj: Any) -> object:
    """What of an object may change the amount it uses. Others matter only by being there."""
    match obj:
        case Pod():
            statuses = [*obj.status.containerStatuses, *obj.status.initContainerStatuses]
            return (
                obj.status.phase in ("Succeeded", "Failed"),
                obj.metadata.deletionTimestamp,
                obj.spec.activeDeadlineSeconds,
                obj.spec.resources,
                [container.resources for container in obj.spec.containers],
                [status.resources for status in statuses],
            )
        case Service():
            return obj.spec.type, obj.spec.ports, obj.spec.allocateLoadBalancerNodePorts
        case PersistentVolumeClaim():
            return (
                obj.spec.resources,
                obj.spec.volumeAttributesClassName,
                obj.status.allocatedResources,
                obj.status.currentVolumeAttributesClassName,
                obj.status.modifyVolumeStatus,
            )
        case ResourceClaim():
            return obj.spec
        case _:
            return None


class Sources:
    """`replenish(namespace, resource)` is called when objects go or change their use."""

    def __init__(self, context: ControllerContext, replenish: Callable[[str, str], None]) -> None:
        self._context = context
        self._replenish = replenish
        self._followed: dict[str, Informer[Any]] = {}
        self._lock = asyncio.Lock()

    @staticmethod
    def is_typed(resource: str) -> bool:
        return resource in TYPED

    async def follow(self, resource: str) -> Informer[Any] | None:
        """The synced informer of a resource; None if the server does not have it. Raises
        ApiError."""
        async with self._lock:
            informer = self._known(resource)
            if informer is None:
                informer = await self._begin(resource)
                if informer is None:
                    return None
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                await informer.wait_synced()
        except TimeoutError as error:
            raise ApiError(503, "ServiceUnavailable", f"no list of {resource} yet") from error
        return informer

    def _known(self, resource: str) -> Informer[Any] | None:
        """One that was followed before, unless its resource went away and took it along."""
        informer = self._followed.get(resource)
        return informer if informer and self._context.informers.runs(informer) else None

    async def _begin(self, resource: str) -> Informer[Any] | None:
        factory = self._context.informers
        kind = TYPED.get(resource)
        if kind is not None:
            informer: Informer[Any] = factory.informer(kind)
        else:
            path = await self._find(resource)
            if path is None:
                return None
            informer = factory.existing(path) or factory.of(
                ResourceClient(self._context.client, path, Codec(SlimObject)), untouched
            )
        self._followed[resource] = informer

        def gone(obj: Any) -> None:
            self._replenish(identify(cast("AnyObject", obj)).namespace, resource)

        def changed(old: Any, new: Any) -> None:
            if relevant(old) != relevant(new):
                gone(new)

        informer.add_handler(on_update=changed if kind else None, on_delete=gone)
        await factory.start()
        return informer

    async def _find(self, resource: str) -> ResourcePath | None:
        plural, _, group = resource.partition(".")
        for row in (await discover(self._context.client)).resources:
            if (row.plural, row.group) == (plural, group) and row.is_namespaced:
                return path_of(row) if {"list", "watch"} <= row.verbs else None
        return None


@dataclass(frozen=True, slots=True)
class Known:
    """What the informers know, as `navarch.api.quota` asks for it."""

    informers: Mapping[str, Informer[Any]]

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        found = self.informers[resource].cache.get(f"{namespace}/{name}")
        return None if found is None else to_object(found)

    def list(self, resource: str, namespace: str = "") -> Iterator[Object]:
        return map(to_object, self.informers[resource].cache.list(namespace))

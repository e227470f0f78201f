"""What the scheduler knows of devices: slices, classes, claims, and what is taken.

A claim counts with the devices that it has or, from the moment they are chosen for it, that it is
about to get (*in flight*): no other pod may choose them meanwhile, nor use the claim before it is
written. What was written counts from then on, whether or not an informer has shown it yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from navarch.api.quantity import Quantity, parse_quantity
from navarch.api.resource_claims import (
    CLASS_RESOURCE,
    EXTENDED_CLAIM,
    DeviceId,
    class_resources,
    device_id,
    owning_pod,
    results,
)
from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Node
from navarch.api.types.resource_v1 import (
    DeviceClass,
    DeviceRequestAllocationResult,
    ResourceClaim,
    ResourceSlice,
)
from navarch.api.validation.resources import is_extended as is_vendors
from navarch.client import object_key
from navarch.scheduler.dra.allocator import InUse
from navarch.scheduler.dra.answers import Answers, KnownAnswers
from navarch.scheduler.dra.pools import Pool, SliceView, gather

Results = Sequence[DeviceRequestAllocationResult]
POOLS_KEPT = 16384


class Devices:
    """Plugins read, informers and whoever binds pods write."""

    def __init__(self) -> None:
        self.now: Callable[[], datetime] | None = None
        self.claims: dict[str, ResourceClaim] = {}
        self.classes: dict[str, DeviceClass] = {}
        self.in_flight: dict[str, Results] = {}
        """By the claim's uid."""
        self._held: dict[str, Results] = {}
        """What counts of a claim, by its uid."""
        self._exclusive: Counter[DeviceId] = Counter()
        self._sharers: dict[DeviceId, dict[tuple[str, str], Mapping[str, Quantity]]] = {}
        self._shared: dict[DeviceId, Mapping[str, Quantity]] = {}
        self.in_use = InUse(self._exclusive, self._shared)
        self._extended: dict[str, str] = {}
        """Claims for extended resources, by the uid of their pod."""
        self._resources: dict[str, str] = {}
        """Classes by the extended resource that they name."""
        self._on_node: dict[str, dict[str, SliceView]] = {}
        self._common: dict[str, SliceView] = {}
        self._in_pool: dict[tuple[str, str], dict[str, SliceView]] = {}
        self._views: dict[str, SliceView] = {}
        self._pools: dict[str, tuple[Node, list[Pool]]] = {}
        self._answers = KnownAnswers()

    # Claims.

    def set_claim(self, claim: ResourceClaim) -> None:
        """A new state, unless a later one is known."""
        key = object_key(claim)
        known = self.claims.get(key)
        if known is not None and known.metadata.uid == claim.metadata.uid:
            if _version(known) > _version(claim):
                return
        elif known is not None:
            self._drop(known)
        self.claims[key] = claim
        if claim.metadata.annotations.get(EXTENDED_CLAIM) == "true":
            owner = owning_pod(claim)
            if owner is not None:
                self._extended[owner.uid] = key
        self._count(claim.metadata.uid, claim)

    def remove_claim(self, claim: ResourceClaim) -> None:
        known = self.claims.get(object_key(claim))
        if known is not None and known.metadata.uid == claim.metadata.uid:
            self._drop(known)
            del self.claims[object_key(claim)]

    def _drop(self, claim: ResourceClaim) -> None:
        owner = owning_pod(claim)
        if owner is not None and self._extended.get(owner.uid) == object_key(claim):
            del self._extended[owner.uid]
        self._count(claim.metadata.uid, None)

    def extended_claim(self, pod_uid: str) -> ResourceClaim | None:
        key = self._extended.get(pod_uid)
        return None if key is None else self.claims.get(key)

    def reserve(self, uid: str, found: Results) -> None:
        """From now on a claim has these devices."""
        self.in_flight[uid] = found
        self._hold(uid, found)

    def release(self, uid: str, claim: ResourceClaim | None) -> None:
        """It is written, or has failed: the claim counts as it is."""
        if self.in_flight.pop(uid, None) is not None:
            self._count(uid, claim)

    def _count(self, uid: str, claim: ResourceClaim | None) -> None:
        if uid not in self.in_flight:
            self._hold(uid, () if claim is None else results(claim))

    def _hold(self, uid: str, now: Results) -> None:
        before = self._held.pop(uid, ())
        if now:
            self._held[uid] = now
        if before is now:
            return
        for each in before:
            self._adjust(uid, each, -1)
        for each in now:
            self._adjust(uid, each, 1)

    def _adjust(self, uid: str, result: DeviceRequestAllocationResult, sign: int) -> None:
        if result.adminAccess:
            return
        device = device_id(result)
        for view in self._in_pool.get(device[:2], {}).values():
            self._answers.forget_node(view.slice.spec.nodeName or "")
        if result.shareID is None:
            self._exclusive[device] += sign
            if not self._exclusive[device]:
                del self._exclusive[device]
            return
        sharers = self._sharers.setdefault(device, {})
        if sign > 0:
            sharers[uid, result.shareID] = {
                name: parse_quantity(text) for name, text in result.consumedCapacity.items()
            }
        else:
            sharers.pop((uid, result.shareID), None)
        if not sharers:
            del self._sharers[device]
            self._shared.pop(device, None)
            return
        total: dict[str, Quantity] = {}
        for amounts in sharers.values():
            for name, value in amounts.items():
                total[name] = total[name] + value if name in total else value
        self._shared[device] = total

    # Classes.

    def set_class(self, device_class: DeviceClass) -> None:
        self.classes[device_class.metadata.name] = device_class
        self._name_resources()

    def remove_class(self, device_class: DeviceClass) -> None:
        self.classes.pop(device_class.metadata.name, None)
        self._name_resources()

    def _name_resources(self) -> None:
        """Of several classes with one resource the newest counts."""
        self._answers.clear()
        named = sorted(self.classes.values(), key=lambda each: each.metadata.name, reverse=True)
        self._resources = {
            each.spec.extendedResourceName: each.metadata.name
            for each in sorted(named, key=_made)
            if each.spec.extendedResourceName
        }

    def class_of(self, resource: str) -> str | None:
        """The class behind an extended resource, if it exists."""
        if not self.classes or "/" not in resource:
            return None
        name = class_resources(self._resources, resource)
        return name if name in self.classes else None

    # Slices.

    def set_slice(self, slice_: ResourceSlice) -> None:
        self.remove_slice(slice_)
        view = SliceView(slice_)
        name = slice_.metadata.name
        self._views[name] = view
        self._place(view)[name] = view
        self._in_pool.setdefault(view.pool, {})[name] = view

    def remove_slice(self, slice_: ResourceSlice) -> None:
        self._pools.clear()
        self._answers.clear()
        name = slice_.metadata.name
        view = self._views.pop(name, None)
        if view is None:
            return
        del self._place(view)[name]
        node = view.slice.spec.nodeName or ""
        if view.is_local and not self._on_node[node]:
            del self._on_node[node]
        del self._in_pool[view.pool][name]
        if not self._in_pool[view.pool]:
            del self._in_pool[view.pool]

    def _place(self, view: SliceView) -> dict[str, SliceView]:
        if not view.is_local:
            return self._common
        return self._on_node.setdefault(view.slice.spec.nodeName or "", {})

    def has_any(self, node: str) -> bool:
        """Whether there can be devices on a node."""
        return bool(self._common) or node in self._on_node

    def is_alone(self, node: str) -> bool:
        """Whether a node has devices that others do not reach."""
        return node in self._on_node

    def answers(self, claims: Sequence[ResourceClaim]) -> Answers:
        """What is known of nodes for claims of this content, to be read and added to. Devices that
        are common to nodes leave nothing to keep."""
        return {} if self._common else self._answers.to(claims)

    def pools(self, node: Node) -> list[Pool]:
        name = node.metadata.name
        known = self._pools.get(name)
        if known is not None and known[0] is node:
            return known[1]
        if len(self._pools) >= POOLS_KEPT:
            self._pools.clear()
        views: Iterable[SliceView] = [*self._on_node.get(name, {}).values(), *self._common.values()]
        in_pool = {pool: [*views.values()] for pool, views in self._in_pool_of(views)}
        found = gather(node, views, in_pool)
        self._pools[name] = (node, found)
        return found

    def _in_pool_of(
        self, views: Iterable[SliceView]
    ) -> Iterable[tuple[tuple[str, str], dict[str, SliceView]]]:
        return ((pool, self._in_pool[pool]) for pool in {view.pool for view in views})


def is_extended(resource: str) -> bool:
    """Whether a device class can stand behind a resource."""
    return resource.startswith(CLASS_RESOURCE) or is_vendors(resource)


def _made(device_class: DeviceClass) -> datetime:
    return parse_time(device_class.metadata.creationTimestamp or "1970-01-01T00:00:00Z")


def _version(claim: ResourceClaim) -> int:
    return int(claim.metadata.resourceVersion or "0")

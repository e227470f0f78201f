"""The ResourceQuota controller: counts what a namespace uses, and says so in the quota's status.

Admission only ever adds to `status.used`, at the moment an object is about to be stored. Everything
else is this controller's: the first count, without which a quota limits nothing, a count when
`spec.hard` changes, and the way down, when objects go, pods end, services change their type or
claims shrink. Every quota is counted anew from time to time, and a little after admission has added
to it, because an object that was admitted need not have been stored.

A count of objects that lag behind the server must not take away what admission has just reserved
for one of them. A quota that was written a moment ago is therefore left alone until the informers
have had time to show what it was written for, unless it has no count at all, which comes first.

Source: upstream's `pkg/controller/resourcequota`; the arithmetic is in `navarch.api.quota`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from navarch.api import quota as rules
from navarch.api.objects import Object, copy_object, to_object
from navarch.api.pod_resources import Amounts, add, parse_amounts
from navarch.api.types.core_v1 import ResourceQuota, ResourceQuotaStatus
from navarch.client import Controller, ControllerContext, Informer
from navarch.controllers.resourcequota_sources import CLAIMS, CLASSES, Known, Sources

RESYNC_SECONDS = 300.0
SETTLE_SECONDS = 0.25
"""So long after its last change a quota is not counted again."""
RECOUNT_SECONDS = 5.0
"""So long after admission changed a quota its use is checked."""
UNKNOWN_SECONDS = 10.0
"""How often a resource that a quota names but the server does not have is looked for."""
AT_ONCE = 200
"""After so many objects others get their turn."""


def tally(
    quota: Object,
    resource: str,
    objects: Iterable[Object],
    now: datetime,
    others: rules.Others | None = None,
) -> Amounts:
    """What of the quota's names these objects of one resource use, 0 for what they do not."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    names = rules.matching_names(resource, hard)
    total: Amounts = dict.fromkeys(names, rules.ZERO)
    for obj in objects:
        if rules.in_scope(quota, resource, obj):
            used = rules.usage(resource, obj, now, others)
            total = add(total, {name: used[name] for name in names if name in used})
    return total


def next_status(quota: ResourceQuota, counted: Amounts) -> ResourceQuotaStatus:
    """The status after a count. What could not be counted keeps the value it has."""
    hard = quota.spec.hard
    used = {name: value for name, value in quota.status.used.items() if name in hard}
    before = parse_amounts(used)
    for name, value in counted.items():
        if before.get(name) != value:
            used[name] = str(value)
    return ResourceQuotaStatus(hard=dict(hard), used=used)


def lacks_usage(quota: ResourceQuota) -> bool:
    """Whether the quota limits less than it should: its spec is new, or something has no count."""
    status = quota.status
    if parse_amounts(quota.spec.hard) != parse_amounts(status.hard):
        return True
    return any(name not in status.used and rules.resources_of(name) for name in status.hard)


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return parse_amounts(first) == parse_amounts(second)


class ResourceQuotaController(Controller):
    """Watches: quotas; and of the resources they name, those that go or come to use less."""

    name = "resourcequota"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.quotas = context.informers.informer(ResourceQuota)
        self.sources = Sources(context, self._replenish)
        self._changed: dict[str, float] = {}
        """When each quota was last seen to change."""
        self.depends_on(self.quotas)
        self.quotas.add_handler(self._added, self._updated, self._deleted)

    def _added(self, quota: ResourceQuota) -> None:
        self.queue.add(_key(quota), urgent=lacks_usage(quota))

    def _updated(self, old: ResourceQuota, new: ResourceQuota) -> None:
        key = _key(new)
        if old.status != new.status:
            self._changed[key] = self.clock.monotonic()
            self.queue.add_after(key, RECOUNT_SECONDS)
        if not same(old.spec.hard, new.spec.hard):
            self.queue.add(key, urgent=True)

    def _deleted(self, quota: ResourceQuota) -> None:
        self._changed.pop(_key(quota), None)

    def _replenish(self, namespace: str, resource: str) -> None:
        """Objects of that resource use less than before."""
        for quota in self.quotas.cache.list(namespace):
            if rules.matching_names(resource, quota.spec.hard):
                self.queue.add(_key(quota))

    async def reconcile(self, key: str) -> None:
        quota = self.quotas.cache.get(key)
        if quota is None:
            return
        since = self.clock.monotonic() - self._changed.get(key, float("-inf"))
        if since < SETTLE_SECONDS and not lacks_usage(quota):
            self.queue.add_after(key, SETTLE_SECONDS - since)
            return
        counted: Amounts = {}
        is_complete = True
        for resource in sorted({r for name in quota.spec.hard for r in rules.resources_of(name)}):
            amounts = await self._count(quota, resource)
            if amounts is None:
                is_complete = False
            else:
                counted = add(counted, amounts)
        status = next_status(quota, counted)
        if not (same(status.hard, quota.status.hard) and same(status.used, quota.status.used)):
            written = copy_object(quota)
            written.status = status
            await self.client.resource(ResourceQuota).update_status(written)
        self.queue.add_after(key, RESYNC_SECONDS if is_complete else UNKNOWN_SECONDS)

    async def _count(self, quota: ResourceQuota, resource: str) -> Amounts | None:
        """What the namespace's objects of a resource use; None if there is no such resource."""
        informer = await self.sources.follow(resource)
        if informer is None:
            return None
        limited = to_object(quota)
        now = self.clock.now()
        objects = informer.cache.list(quota.metadata.namespace)
        if not self.sources.is_typed(resource):
            # One is like the other.
            one = tally(limited, resource, [{}], now)
            return {name: value * len(objects) for name, value in one.items()}
        others = await self._known(informer) if resource == CLAIMS else None
        total = tally(limited, resource, (), now)
        for start in range(0, len(objects), AT_ONCE):
            part = (to_object(obj) for obj in objects[start : start + AT_ONCE])
            total = add(total, tally(limited, resource, part, now, others))
            await asyncio.sleep(0)
        return total

    async def _known(self, claims: Informer[Any]) -> Known | None:
        """What decides on claims; None if the server does not have it."""
        pods, classes = await self.sources.follow("pods"), await self.sources.follow(CLASSES)
        if pods is None or classes is None:
            return None
        return Known({CLAIMS: claims, "pods": pods, CLASSES: classes})


def _key(quota: ResourceQuota) -> str:
    return f"{quota.metadata.namespace}/{quota.metadata.name}"

"""The device taint eviction controller: pods leave devices that have become unfit for use.

A driver taints a device of its slices with NoExecute. Pods whose claims have that device and do not
tolerate the taint are deleted: at once, or when the shortest of the times that they tolerate it is
over, counted from when the taint was added. A claim tells which tolerations were asked for when it
got the device. A taint that goes in time, or a claim that loses the device, cancels it.

Taints come from slices alone: DeviceTaintRules are a beta API that is off by default, and not
served.
Source: KEP-5055; upstream's `pkg/controller/devicetainteviction`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from navarch.api.resource_claims import (
    ClaimProblem,
    DeviceId,
    check_owner,
    claim_name,
    device_id,
    is_generated,
    is_reserved_for,
    known_claim_names,
    results,
    tolerates,
)
from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Pod
from navarch.api.types.resource_v1 import (
    DeviceRequestAllocationResult,
    DeviceTaint,
    ResourceClaim,
    ResourceSlice,
)
from navarch.client import Controller, ControllerContext, drop_managed_fields, object_key
from navarch.controllers.pods import is_active
from navarch.controllers.taint_eviction import evict

BY_DEVICE, BY_CLAIM, BY_POOL = "device", "resource claims", "pool"
NO_EXECUTE = "NoExecute"


def eviction_time(
    result: DeviceRequestAllocationResult, taints: Iterable[DeviceTaint], now: datetime
) -> datetime | None:
    """When a device may no longer be used for a request; None: nothing speaks against it."""
    due: list[datetime] = []
    for taint in taints:
        if taint.effect != NO_EXECUTE:
            continue
        matching = [
            each
            for each in result.tolerations
            if each.effect == NO_EXECUTE and tolerates([each], taint)
        ]
        if any(each.tolerationSeconds is None for each in matching):
            continue
        added = parse_time(taint.timeAdded) if taint.timeAdded else now
        seconds = min((max(each.tolerationSeconds or 0, 0) for each in matching), default=0)
        due.append(added + timedelta(seconds=seconds))
    return min(due, default=None)


class DeviceTaintEvictionController(Controller):
    """Watches: slices and claims (which wake the pods that use them) and pods."""

    name = "device-taint-eviction"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.recorder = context.recorder("device-taint-eviction-controller")
        self.pods = context.informers.informer(Pod)
        self.claims = context.informers.informer(ResourceClaim, transform=drop_managed_fields)
        self.slices = context.informers.informer(ResourceSlice, transform=drop_managed_fields)
        self._due: dict[str, str] = {}
        """Pods that are to go: their uids by their keys."""
        self.claims.add_index(BY_DEVICE, lambda claim: map(_index, map(device_id, results(claim))))
        self.slices.add_index(BY_POOL, lambda each: [_pool(each)])
        self.watch(self.pods, lambda pod: object_key(pod) if _uses_claims(pod) else None)
        self.watch(self.claims, _users)
        self.depends_on(self.slices)
        self.slices.add_handler(
            lambda new: self._changed(None, new),
            self._changed,
            lambda old: self._changed(old, None),
        )

    def _changed(self, old: ResourceSlice | None, new: ResourceSlice | None) -> None:
        """Wake the pods with devices whose taints are different now."""
        before, after = _tainted(old), _tainted(new)
        for device in before.keys() | after.keys():
            if before.get(device) != after.get(device):
                for claim in self.claims.cache.by_index(BY_DEVICE, _index(device)):
                    self.enqueue(_users(claim))

    async def reconcile(self, key: str) -> None:
        pod = self.pods.cache.get(key)
        if pod is None or not pod.spec.nodeName or not is_active(pod):
            self._due.pop(key, None)
            return
        now = self.clock.now()
        due = self._due_time(pod, now)
        if due is None:
            if self._due.pop(key, None) == pod.metadata.uid:
                self._tell(pod, "Cancelling deletion")
            return
        self._due[key] = pod.metadata.uid
        if (left := (due - now).total_seconds()) > 0:
            self.queue.add_after(key, left)
            return
        self._tell(pod, "Marking for deletion")
        message = "Device Taint manager: deleting due to NoExecute taint"
        await evict(self.client, pod, "DeletionByDeviceTaintManager", message)

    def _due_time(self, pod: Pod, now: datetime) -> datetime | None:
        due = (
            eviction_time(result, self._taints(device_id(result)), now)
            for claim in self._claims_of(pod)
            for result in results(claim)
        )
        return min((each for each in due if each is not None), default=None)

    def _claims_of(self, pod: Pod) -> Iterator[ResourceClaim]:
        """Those that the pod uses, and may use."""
        for each in pod.spec.resourceClaims:
            try:
                name = claim_name(pod, each)
                claim = self.claims.cache.get(f"{pod.metadata.namespace}/{name}")
                if claim is None or not is_reserved_for(claim, pod.metadata.uid):
                    continue
                if is_generated(each):
                    check_owner(pod, claim)
            except ClaimProblem:
                continue
            yield claim

    def _taints(self, device: DeviceId) -> Sequence[DeviceTaint]:
        """As the newest generation of its pool says."""
        slices = self.slices.cache.by_index(BY_POOL, "/".join(device[:2]))
        newest = max((each.spec.pool.generation for each in slices), default=0)
        for each in slices:
            if each.spec.pool.generation == newest:
                for found in each.spec.devices:
                    if found.name == device[2]:
                        return found.taints
        return ()

    def _tell(self, pod: Pod, what: str) -> None:
        self.recorder.event(pod, "Normal", "DeviceTaintManagerEviction", what)


def _uses_claims(pod: Pod) -> bool:
    return any(True for _ in known_claim_names(pod))


def _users(claim: ResourceClaim) -> list[str]:
    """The keys of the pods that a claim is reserved for."""
    namespace = claim.metadata.namespace
    return [
        f"{namespace}/{each.name}"
        for each in claim.status.reservedFor
        if each.resource == "pods" and not each.apiGroup
    ]


def _pool(slice_: ResourceSlice) -> str:
    return f"{slice_.spec.driver}/{slice_.spec.pool.name}"


def _index(device: DeviceId) -> str:
    return "/".join(device)


def _tainted(slice_: ResourceSlice | None) -> dict[DeviceId, list[DeviceTaint]]:
    if slice_ is None:
        return {}
    spec = slice_.spec
    return {(spec.driver, spec.pool.name, each.name): each.taints for each in spec.devices}

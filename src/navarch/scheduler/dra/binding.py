"""What comes between choosing a node and binding the pod: its claims get their devices.

The decision counts at once (the devices are in flight). Then it is written into each claim: the
finalizer that keeps the claim while it has devices, the devices, and the pod as its consumer.
Devices that have to be prepared for their node are waited for. What fails is taken back: a claim
loses the pod as a consumer, and a claim that was made for extended resources is deleted.
Source: KEP-4381, KEP-5007; upstream's `plugins/dynamicresources`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from uuid import uuid4

from navarch.api.errors import ApiError, ignoring, missing
from navarch.api.objects import copy_object, to_object
from navarch.api.resource_claims import (
    EXTENDED_CLAIM,
    FINALIZER,
    ClaimProblem,
    is_reserved_for,
    reservation,
    results,
)
from navarch.api.times import format_time
from navarch.api.types.core_v1 import PodExtendedResourceClaimStatus
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.resource_v1 import ResourceClaim, ResourceClaimStatus
from navarch.client import ControllerContext, PatchType, object_key
from navarch.client.clock import timeout
from navarch.scheduler.dra.plans import ClaimPlan, PlannedClaim
from navarch.scheduler.lookups import InformerObjects
from navarch.scheduler.news import News
from navarch.scheduler.pod_status import patch_status
from navarch.scheduler.podinfo import DEFAULT_SCHEDULER, PodInfo

log = logging.getLogger(__name__)

ATTEMPTS = 5


class ClaimBinder:
    """Writes plans. Devices tell it what becomes of claims."""

    def __init__(self, context: ControllerContext, objects: InformerObjects) -> None:
        self._context = context
        self._client = context.client
        self._claims = self._client.resource(ResourceClaim)
        self._devices = objects.devices
        self.news = News()
        """Of claims, by their keys, and of pods, by their uids."""
        self._flights: dict[int, str] = {}
        """Under which uid the devices of a planned claim are in flight."""
        changed = self._changed
        objects.resource_claims.add_handler(changed, lambda _, new: changed(new), changed)

    def assume(self, plan: ClaimPlan) -> None:
        """From now on the devices are taken."""
        for planned in plan.claims:
            if planned.allocation is not None:
                uid = planned.claim.metadata.uid or str(uuid4())
                self._flights[id(planned)] = uid
                self._devices.reserve(uid, planned.allocation.devices.results)

    def _changed(self, claim: ResourceClaim) -> None:
        self.news.tell(object_key(claim))

    async def bind(
        self, info: PodInfo, plan: ClaimPlan, node: str, is_wanted: Callable[[], bool]
    ) -> list[ResourceClaim]:
        """Return the claims when all have their devices and these are ready. Raises ClaimProblem,
        or ApiError from a write; then nothing of it holds."""
        written: list[ResourceClaim] = []
        try:
            for planned in plan.claims:
                written.append(await self._bind(info, plan, planned))
            if any(each.bindingConditions for claim in written for each in results(claim)):
                text = f"waiting for binding conditions for device on node {node}"
                name = info.pod.spec.schedulerName or DEFAULT_SCHEDULER
                recorder = self._context.recorder(name)
                recorder.event(info.pod, "Normal", "BindingConditionsPending", text)
                await self._wait(info, written, plan.seconds, is_wanted)
        except BaseException:
            await asyncio.shield(self.unreserve(info, plan, written))
            raise
        return written

    async def _bind(self, info: PodInfo, plan: ClaimPlan, planned: PlannedClaim) -> ResourceClaim:
        flight = self._flights.pop(id(planned), "")
        claim = planned.claim
        is_made = not claim.metadata.uid
        try:
            if is_made:
                claim = await self._claims.create(claim)
            elif is_reserved_for(claim, info.uid) and planned.allocation is None:
                return claim
            claim = await self._write(info, claim, planned)
            self._devices.set_claim(claim)
        except BaseException:
            if is_made and claim.metadata.uid:
                await self._delete(claim)
            raise
        finally:
            if flight:
                self._devices.release(flight, self._devices.claims.get(object_key(planned.claim)))
        if is_made:
            status = PodExtendedResourceClaimStatus(
                requestMappings=[*plan.mappings], resourceClaimName=claim.metadata.name
            )
            body = {"extendedResourceClaimStatus": to_object(status)}
            await patch_status(self._client, info.pod, body)
        return claim

    async def _write(
        self, info: PodInfo, claim: ResourceClaim, planned: PlannedClaim
    ) -> ResourceClaim:
        for attempt in range(ATTEMPTS):
            if attempt:
                claim = await self._claims.get(claim.metadata.name, claim.metadata.namespace)
            try:
                return await self._write_once(info, copy_object(claim), planned)
            except ApiError as error:
                if not error.is_conflict or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _write_once(
        self, info: PodInfo, claim: ResourceClaim, planned: PlannedClaim
    ) -> ResourceClaim:
        key = object_key(claim)
        if claim.metadata.deletionTimestamp:
            raise ClaimProblem(f"claim {key} got deleted in the meantime")
        if planned.allocation is not None:
            if claim.status.allocation is not None:
                raise ClaimProblem(f"claim {key} got allocated elsewhere in the meantime")
            if FINALIZER not in claim.metadata.finalizers:
                claim.metadata.finalizers.append(FINALIZER)
                claim = await self._claims.update(claim)
            claim.status.allocation = copy_object(planned.allocation)
        if claim.status.allocation is None:
            raise ClaimProblem(f"claim {key} got deallocated elsewhere in the meantime")
        if not is_reserved_for(claim, info.uid):
            claim.status.reservedFor.append(reservation(info.pod.metadata))
        if claim.status.allocation.allocationTimestamp is None:
            now = format_time(self._client.clock.now())
            claim.status.allocation.allocationTimestamp = now
        return await self._claims.update_status(claim)

    async def _wait(
        self,
        info: PodInfo,
        claims: list[ResourceClaim],
        seconds: float,
        is_wanted: Callable[[], bool],
    ) -> None:
        # Late: the plugin imports the plans of this package.
        from navarch.scheduler.plugins.dynamic_resources import is_ready

        keys = [*map(object_key, claims)]
        with self.news.of([*keys, info.uid]) as woken:
            try:
                async with timeout(self._client.clock, seconds):
                    while True:
                        now = [self._devices.claims.get(key) for key in keys]
                        if not is_wanted() or None in now:
                            raise ClaimProblem("the pod or a claim does not exist any more")
                        if all(is_ready(claim) for claim in now if claim is not None):
                            return
                        await woken.wait()
                        woken.clear()
            except TimeoutError:
                raise ClaimProblem("device binding timeout: context deadline exceeded") from None

    def forget(self, plan: ClaimPlan) -> None:
        """What was not written has not happened."""
        for planned in plan.claims:
            if flight := self._flights.pop(id(planned), ""):
                known = self._devices.claims.get(object_key(planned.claim))
                self._devices.release(flight, known)

    async def unreserve(self, info: PodInfo, plan: ClaimPlan, written: list[ResourceClaim]) -> None:
        """The pod uses none of these claims. They keep their devices."""
        self.forget(plan)
        for planned, claim in zip(plan.claims, written, strict=False):
            try:
                if not planned.claim.metadata.uid:
                    await self._delete(claim)
                    continue
                meta = claim.metadata
                gone = {"$patch": "delete", "uid": info.uid}
                await self._claims.patch(
                    meta.name,
                    meta.namespace,
                    {"metadata": {"uid": meta.uid}, "status": {"reservedFor": [gone]}},
                    subresource="status",
                    patch_type=PatchType.STRATEGIC,
                )
            except ApiError as error:
                # The next attempt finds the claim as it is.
                log.warning("%s: not taken back for %s: %s", object_key(claim), info.key, error)

    async def release(self, claim: ResourceClaim) -> None:
        """Give back the devices of a claim; one for extended resources is of no further use.
        Raises ApiError."""
        if claim.metadata.annotations.get(EXTENDED_CLAIM) == "true":
            await self._delete(claim)
            return
        free = copy_object(claim)
        free.status = ResourceClaimStatus()
        await self._claims.update_status(free)

    async def _delete(self, claim: ResourceClaim) -> None:
        meta = ObjectMeta(name=claim.metadata.name, namespace=claim.metadata.namespace)
        with ignoring(missing):
            current = await self._claims.get(meta.name, meta.namespace)
            if current.metadata.uid != claim.metadata.uid:
                return
            if FINALIZER in current.metadata.finalizers:
                current.metadata.finalizers.remove(FINALIZER)
                current = await self._claims.update(current)
            await self._claims.delete(meta.name, meta.namespace, uid=claim.metadata.uid)

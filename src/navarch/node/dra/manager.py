"""Devices of claims on this node: prepared before a pod's sandbox is made, given to its containers,
and given back when its containers have ended.

Before a driver is asked, it is written down that the pod uses the claim; so an agent that is killed
in between leaves nothing prepared that the next one does not undo. A claim that several pods share
is prepared for the first and given back after the last of them. A pod that is gone from the API
before its claims were given back is found by comparing what is written down with the pods there
are.
Source: KEP-4381; upstream's `pkg/kubelet/cm/dra`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from navarch.api.errors import ApiError
from navarch.api.resource_claims import (
    ClaimProblem,
    check_owner,
    claim_name,
    is_generated,
    is_reserved_for,
    results,
)
from navarch.api.types.core_v1 import (
    Container,
    Pod,
    PodResourceClaim,
    ResourceHealth,
    ResourceStatus,
)
from navarch.api.types.resource_v1 import ResourceClaim
from navarch.client import Client

from ..durable import write_durably
from ..figures import claim_operations
from .drivers import DraDriver, DraDrivers, DraProblem
from .health import Place
from .records import ClaimRecord, Device, encode, read

if TYPE_CHECKING:
    from .dra_pb2 import Claim

log = logging.getLogger(__name__)

RECONCILE_SECONDS = 60.0
FILE = "dra_manager_state"

Uses = list[tuple[ClaimRecord, str]]
"""Claims of a container, each with the request it uses; an empty one stands for all."""


class DraManager:
    """The claims of the pods of one node."""

    def __init__(
        self,
        directory: Path,
        client: Client,
        drivers: DraDrivers,
        pods: Callable[[], Iterable[Pod]],
    ) -> None:
        self._file = directory / FILE
        self._client, self._clock, self._pods = client, client.clock, pods
        self.drivers = drivers
        drivers.on_health = self._health_changed
        self._claims: dict[str, ClaimRecord] = {}
        self._turn = asyncio.Lock()
        """Claims are prepared and given back one pod at a time: pods share them."""
        self.on_health: Callable[[set[str]], None] = lambda uids: None
        """Called with the uids of pods whose devices have changed their health."""

    def load(self) -> None:
        """Takes up what the agent before this one has written. A claim with devices counts as
        prepared no more: drivers are asked again, and they answer the same."""
        self._claims = {each.key: each for each in read(self._file)}

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.drivers.run(), name="dra-drivers")
            while True:
                await self._clock.sleep(RECONCILE_SECONDS)
                await self.release_gone()

    async def release_gone(self) -> None:
        """Gives back what is written down for pods that are not there any more."""
        active = {each.metadata.uid for each in self._pods()}
        gone = {uid for claim in self._claims.values() for uid in claim.pods} - active
        for uid in sorted(gone):
            try:
                await self.release(uid)
            except (DraProblem, OSError) as problem:
                log.info("claims of pod %s, which is gone: %s", uid, problem)

    def holds(self, uid: str) -> bool:
        """Whether something is written down for a pod."""
        return any(uid in each.pods for each in self._claims.values())

    def concerns(self, pod: Pod) -> bool:
        return bool(pod.spec.resourceClaims) or pod.status.extendedResourceClaimStatus is not None

    async def prepare(self, pod: Pod) -> None:
        """Has drivers prepare what the pod's claims have. Raises DraProblem."""
        if not self.concerns(pod):
            return
        async with self._turn:
            try:
                with _measured("PrepareResources"):
                    await self._prepare(pod)
            except (DraProblem, ClaimProblem, OSError) as problem:
                raise DraProblem(f"prepare dynamic resources: {problem}") from problem
            except ApiError as error:
                raise DraProblem(f"prepare dynamic resources: {error.message}") from error

    async def _prepare(self, pod: Pod) -> None:
        """First everything is looked up, so that a pod whose driver never was here can go."""
        found = [claim async for claim in self._lookup(pod)]
        drivers = {
            result.driver: self.drivers.driver(result.driver)
            for claim in found
            for result in results(claim)
        }
        to_prepare: list[ClaimRecord] = []
        for claim in found:
            record = self._record(claim)
            record.pods.add(pod.metadata.uid)
            if not record.is_prepared:
                to_prepare.append(record)
        await self._save()
        for name, driver in drivers.items():
            batch = [each for each in to_prepare if name in each.drivers]
            if batch:
                await self._ask(driver, batch)
        for record in to_prepare:
            record.is_prepared = True
        if to_prepare:
            await self._save()

    async def _lookup(self, pod: Pod) -> AsyncIterator[ResourceClaim]:
        claims = self._client.resource(ResourceClaim)
        for each in pod_claims(pod):
            name = claim_name(pod, each)
            if name is None:
                continue
            try:
                claim = await claims.get(name, pod.metadata.namespace)
            except ApiError as error:
                raise DraProblem(f"fetch ResourceClaim {name}: {error.message}") from error
            if is_generated(each):
                check_owner(pod, claim)
            if not is_reserved_for(claim, pod.metadata.uid):
                raise DraProblem(
                    f"pod {pod.metadata.name} ({pod.metadata.uid}) is not allowed to use "
                    f"ResourceClaim {name} ({claim.metadata.uid})"
                )
            if claim.status.allocation is None:
                raise DraProblem(f"ResourceClaim {name}: claim is not allocated")
            yield claim

    def _record(self, claim: ResourceClaim) -> ClaimRecord:
        meta = claim.metadata
        key = f"{meta.namespace}/{meta.name}"
        record = self._claims.get(key)
        if record is None:
            drivers: dict[str, list[Device]] = {each.driver: [] for each in results(claim)}
            record = ClaimRecord(meta.namespace, meta.name, meta.uid, drivers=drivers)
            self._claims[key] = record
        elif record.uid != meta.uid:
            raise DraProblem(
                f"old ResourceClaim with same name {meta.name} and different UID {record.uid} "
                "still exists (previous pod force-deleted?!)"
            )
        return record

    async def _ask(self, driver: DraDriver, batch: list[ClaimRecord]) -> None:
        from . import dra_pb2 as pb

        request = pb.NodePrepareResourcesRequest(claims=map(_claim, batch))
        answer = await driver.call("NodePrepareResources", request, pb.NodePrepareResourcesResponse)
        by_uid = {each.uid: each for each in batch}
        for uid, result in answer.claims.items():
            record = by_uid.pop(uid, None)
            if record is None:
                raise DraProblem(
                    f"NodePrepareResources returned result for unknown claim UID {uid}"
                )
            if result.error:
                raise DraProblem(
                    f"NodePrepareResources failed for ResourceClaim {record.name}: {result.error}"
                )
            record.drivers[driver.name] = [
                Device(
                    each.pool_name,
                    each.device_name,
                    tuple(each.request_names),
                    tuple(each.cdi_device_ids),
                    each.share_id if each.HasField("share_id") else None,
                )
                for each in result.devices
            ]
        if by_uid:
            raise DraProblem(f"NodePrepareResources skipped {len(by_uid)} ResourceClaims")

    async def release(self, uid: str) -> None:
        """Gives back what a pod has used, as far as no other pod uses it. Raises DraProblem."""
        if not self.holds(uid):
            return
        async with self._turn:
            try:
                with _measured("UnprepareResources"):
                    await self._release(uid)
            except DraProblem as problem:
                raise DraProblem(f"unprepare dynamic resources: {problem}") from problem

    async def _release(self, uid: str) -> None:
        from . import dra_pb2 as pb

        mine = [each for each in self._claims.values() if uid in each.pods]
        last = [each for each in mine if each.pods == {uid}]
        for name in sorted({driver for each in last for driver in each.drivers}):
            batch = [each for each in last if name in each.drivers]
            request = pb.NodeUnprepareResourcesRequest(claims=map(_claim, batch))
            answer = await self.drivers.driver(name).call(
                "NodeUnprepareResources", request, pb.NodeUnprepareResourcesResponse
            )
            for each in batch:
                if each.uid not in answer.claims:
                    raise DraProblem("NodeUnprepareResources skipped 1 ResourceClaims")
                if error := answer.claims[each.uid].error:
                    raise DraProblem(
                        f"NodeUnprepareResources failed for ResourceClaim {each.name}: {error}"
                    )
        for each in mine:
            each.pods.discard(uid)
            if not each.pods:
                del self._claims[each.key]
        await self._save()

    async def _save(self) -> None:
        blob = encode(self._claims.values())
        await asyncio.to_thread(write_durably, self._file, blob)

    # What containers are given

    async def names_for(self, pod: Pod, container: Container) -> list[str]:
        """The CDI names of a container's devices. Raises DraProblem."""
        uses = [*self._wanted(pod, container)]
        if not uses:
            return []
        if any(not self._is_prepared(pod, name) for name, _ in uses):
            # The agent was away, or has lost what it knew.
            await self.prepare(pod)
        names: dict[str, None] = {}
        for record, request in self._uses(pod, container):
            for devices in record.drivers.values():
                for each in devices:
                    if each.serves(request):
                        names |= dict.fromkeys(each.cdi)
        return [*names]

    def _is_prepared(self, pod: Pod, name: str) -> bool:
        record = self._claims.get(f"{pod.metadata.namespace}/{name}")
        return record is not None and (record.is_prepared or _has_devices(record))

    def _wanted(self, pod: Pod, container: Container) -> Iterator[tuple[str, str]]:
        """Names of claims, with requests, that a container uses."""
        wanted = {each.name for each in container.resources.claims}
        names = {each.name: claim_name(pod, each) for each in pod.spec.resourceClaims
                 if each.name in wanted}  # fmt: skip
        for claim in container.resources.claims:
            name = names.get(claim.name)
            if name is not None:
                yield name, claim.request
        extended = pod.status.extendedResourceClaimStatus
        for mapping in extended.requestMappings if extended is not None else ():
            mine = mapping.containerName == container.name
            if extended and mine and mapping.resourceName in container.resources.requests:
                yield extended.resourceClaimName, mapping.requestName

    def _uses(self, pod: Pod, container: Container) -> Uses:
        found = []
        for name, request in self._wanted(pod, container):
            record = self._claims.get(f"{pod.metadata.namespace}/{name}")
            if record is None:
                raise DraProblem(
                    f"internal error: unable to get claim info for ResourceClaim {name} in "
                    f"namespace {pod.metadata.namespace}"
                )
            found.append((record, request))
        return found

    def devices_of(self, pod: Pod, container: Container) -> list[tuple[ClaimRecord, str, Device]]:
        """Claim, driver and device of all that a container has, for those who monitor."""
        try:
            uses = self._uses(pod, container)
        except (DraProblem, ClaimProblem):
            return []
        records = {each.key: each for each, _ in uses}
        return [
            (record, driver, device)
            for record in records.values()
            for driver, devices in record.drivers.items()
            for device in devices
        ]

    def health(self, pod: Pod, container: Container) -> list[ResourceStatus]:
        """How the devices of a container's claims are (KEP-4680)."""
        now = self._clock.monotonic()
        names = {each.name: each for each in pod.spec.resourceClaims}
        statuses = []
        for claim in container.resources.claims:
            try:
                name = claim_name(pod, names[claim.name]) if claim.name in names else None
            except ClaimProblem:
                continue
            record = self._claims.get(f"{pod.metadata.namespace}/{name}")
            if record is None:
                continue
            found: dict[str, ResourceHealth] = {}
            for driver, devices in record.drivers.items():
                for each in devices:
                    if each.serves(claim.request.partition("/")[0]):
                        id_ = each.cdi[0] if each.cdi else f"{driver}/{each.pool}/{each.name}"
                        health = self.drivers.health.get((driver, each.pool, each.name), now)
                        known = ResourceHealth(
                            resourceID=id_, health=health.state, message=health.message or None
                        )
                        found.setdefault(id_, known)
            if found:
                what = f"claim:{claim.name}" + (f"/{claim.request}" if claim.request else "")
                statuses.append(ResourceStatus(name=what, resources=[*found.values()]))
        return statuses

    def _health_changed(self, places: set[Place]) -> None:
        uids: set[str] = set()
        for record in self._claims.values():
            for driver, devices in record.drivers.items():
                if any((driver, each.pool, each.name) in places for each in devices):
                    uids |= record.pods
        if uids:
            self.on_health(uids)


@contextmanager
def _measured(operation: str) -> Iterator[None]:
    begin, is_error = perf_counter(), True
    try:
        yield
        is_error = False
    finally:
        seconds = perf_counter() - begin
        claim_operations.labels(operation, str(is_error).lower()).observe(seconds)


def pod_claims(pod: Pod) -> Iterator[PodResourceClaim]:
    """The pod's claims, and the one for its extended resources."""
    yield from pod.spec.resourceClaims
    extended = pod.status.extendedResourceClaimStatus
    if extended is not None:
        yield PodResourceClaim(resourceClaimName=extended.resourceClaimName)


def _has_devices(record: ClaimRecord) -> bool:
    return all(record.drivers.values()) and bool(record.drivers)


def _claim(record: ClaimRecord) -> Claim:
    from . import dra_pb2 as pb

    return pb.Claim(namespace=record.namespace, uid=record.uid, name=record.name)

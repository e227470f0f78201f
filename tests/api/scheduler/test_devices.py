"""Pods get devices: controller and scheduler together, against the API server of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.objects import from_object
from navarch.api.resource_claims import EXTENDED_CLAIM, FINALIZER
from navarch.api.types.core_v1 import ContainerExtendedResourceRequest, Pod, PodResourceClaim
from navarch.api.types.resource_v1 import (
    DeviceClass,
    ResourceClaim,
    ResourceClaimTemplate,
    ResourceSlice,
)
from navarch.client import Client, InformerFactory, ResourceClient
from navarch.client.controller import ControllerContext
from navarch.controllers.resource_claim import ResourceClaimController
from navarch.scheduler.dra.binding import ClaimBinder

from .test_binding import add_node, client, node, pod, scheduling, when

__all__ = ["client"]

DRIVER = "gpu.example.com"


@asynccontextmanager
async def working(client: Client) -> AsyncIterator[None]:
    """The scheduler and the controller of claims."""
    context = ControllerContext(client, InformerFactory(client), client.clock)
    controller = ResourceClaimController(context)
    await context.informers.start()
    task = asyncio.create_task(controller.run())
    try:
        async with scheduling(client):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await context.close()


def spec(select: str = "") -> dict[str, Any]:
    selectors = [{"cel": {"expression": select}}] if select else []
    exactly = {"deviceClassName": "gpu", "selectors": selectors}
    return {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}


def device_class(**fields: Any) -> DeviceClass:
    expression = f'device.driver == "{DRIVER}"'
    body = {"selectors": [{"cel": {"expression": expression}}], **fields}
    return from_object(DeviceClass, {"metadata": {"name": "gpu"}, "spec": body})


def gpus(on: str, *devices: dict[str, Any]) -> ResourceSlice:
    body = {
        "driver": DRIVER,
        "nodeName": on,
        "pool": {"name": on, "generation": 1, "resourceSliceCount": 1},
        "devices": [*devices],
    }
    return from_object(ResourceSlice, {"metadata": {"name": f"gpus-{on}"}, "spec": body})


def template(name: str = "t") -> ResourceClaimTemplate:
    meta = {"name": name, "namespace": "default"}
    return from_object(ResourceClaimTemplate, {"metadata": meta, "spec": {"spec": spec()}})


def claim(name: str, select: str = "") -> ResourceClaim:
    meta = {"name": name, "namespace": "default"}
    return from_object(ResourceClaim, {"metadata": meta, "spec": spec(select)})


def user(name: str, *, template: str | None = None, claim: str | None = None) -> Pod:
    made = pod(name)
    made.spec.resourceClaims = [
        PodResourceClaim(name="gpu", resourceClaimTemplateName=template, resourceClaimName=claim)
    ]
    return made


def why(pod: Pod) -> str:
    return next((c.message for c in pod.status.conditions if c.type == "PodScheduled"), "")


async def test_pods_with_templates_share_out_the_devices(client: Client) -> None:
    """Two nodes have a device each, so two pods run and the third waits until one has ended."""
    pods, claims = client.resource(Pod), client.resource(ResourceClaim)
    for name in ("n1", "n2", "n3"):
        await add_node(client, node(name))
    await client.resource(DeviceClass).create(device_class())
    await client.resource(ResourceClaimTemplate).create(template())
    async with working(client):
        await client.resource(ResourceSlice).create(gpus("n1", {"name": "gpu-0"}))
        first = await pods.create(user("a", template="t"))
        first = await when(client, "a", lambda p: bool(p.spec.nodeName))
        assert first.spec.nodeName == "n1"
        (status,) = first.status.resourceClaimStatuses
        found = await claims.get(status.resourceClaimName or "", "default")
        assert found.metadata.finalizers == [FINALIZER]
        assert found.status.allocation is not None
        (result,) = found.status.allocation.devices.results
        assert (result.request, result.driver, result.pool, result.device) == (
            *("r", DRIVER, "n1"),
            "gpu-0",
        )
        assert found.status.allocation.allocationTimestamp
        (consumer,) = found.status.reservedFor
        assert (consumer.resource, consumer.name, consumer.uid) == (
            *("pods", "a"),
            first.metadata.uid,
        )
        await pods.create(user("b", template="t"))
        waiting = await when(client, "b", lambda p: "cannot allocate" in why(p))
        assert why(waiting).startswith("0/3 nodes are available: 3 cannot allocate all claims. ")
        assert "still not schedulable, preemption: " in why(waiting)
        # A new device helps one, the end of a pod the other.
        await client.resource(ResourceSlice).create(gpus("n2", {"name": "gpu-0"}))
        second = await when(client, "b", lambda p: bool(p.spec.nodeName))
        assert second.spec.nodeName == "n2"
        await pods.create(user("c", template="t"))
        await when(client, "c", lambda p: "cannot allocate" in why(p))
        await pods.delete("a", "default", grace_period=0)
        third = await when(client, "c", lambda p: bool(p.spec.nodeName))
        assert third.spec.nodeName == "n1"


async def test_a_shared_claim_holds_its_pods_together(client: Client) -> None:
    pods = client.resource(Pod)
    for name in ("n1", "n2"):
        await add_node(client, node(name, cpu="1"))
    await client.resource(DeviceClass).create(device_class())
    await client.resource(ResourceSlice).create(gpus("n2", {"name": "gpu-0"}))
    async with working(client):
        waiting = await pods.create(user("a", claim="mine"))
        await client.resource(ResourceClaim).create(claim("mine"))
        for name in ("b", "c"):
            await pods.create(user(name, claim="mine"))
        for name in ("a", "b", "c"):
            waiting = await when(client, name, lambda p: bool(p.spec.nodeName))
            assert waiting.spec.nodeName == "n2"
        found = await client.resource(ResourceClaim).get("mine", "default")
        assert {each.name for each in found.status.reservedFor} == {"a", "b", "c"}


async def test_a_pod_that_cannot_be_bound_gives_its_claim_back(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is tried again, so that another pod may use the claim meanwhile."""
    bind = ResourceClient.post_subresource
    refused: list[str] = []

    async def post(self: Any, name: str, *rest: Any) -> bytes:
        if name == "a" and not refused:
            refused.append(name)
            raise ApiError(500, "InternalError", "not now")
        return await bind(self, name, *rest)

    monkeypatch.setattr(ResourceClient, "post_subresource", post)
    await add_node(client, node("n1"))
    await client.resource(DeviceClass).create(device_class())
    await client.resource(ResourceSlice).create(gpus("n1", {"name": "gpu-0"}))
    made = await client.resource(ResourceClaim).create(claim("mine"))
    async with working(client):
        await client.resource(Pod).create(user("a", claim="mine"))
        bound = await when(client, "a", lambda p: bool(p.spec.nodeName))
        users: list[list[str]] = []
        async with asyncio.timeout(60):
            version = made.metadata.resourceVersion
            watch = client.resource(ResourceClaim).watch("default", resource_version=version)
            async for event in watch:
                now = [each.uid for each in event.object.status.reservedFor]
                if event.object.status.allocation and users[-1:] != [now]:
                    users.append(now)
                if len(users) == 3:
                    break
        uid = bound.metadata.uid
        assert users == [[uid], [], [uid]]


@pytest.mark.parametrize("refused", [0, 409, 500])
async def test_a_claim_in_the_wrong_place_gives_its_device_back(
    client: Client, refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when that does not work at the first attempt."""
    give_back = ClaimBinder.release
    refusals = [ApiError(refused, "Refused", "not now")] if refused else []

    async def release(self: ClaimBinder, claim: ResourceClaim) -> None:
        if refusals:
            raise refusals.pop()
        await give_back(self, claim)

    monkeypatch.setattr(ClaimBinder, "release", release)
    pods, claims = client.resource(Pod), client.resource(ResourceClaim)
    for name in ("n1", "n2"):
        await add_node(client, node(name))
    await client.resource(DeviceClass).create(device_class())
    for name in ("n1", "n2"):
        await client.resource(ResourceSlice).create(gpus(name, {"name": "gpu-0"}))
    made = await claims.create(claim("mine"))
    made.metadata.finalizers = [FINALIZER]
    made = await claims.update(made)
    where = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    result = {"request": "r", "driver": DRIVER, "pool": "n1", "device": "gpu-0"}
    allocation = {
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [where]}]},
    }
    made.status = from_object(ResourceClaim, {"status": {"allocation": allocation}}).status
    await claims.update_status(made)
    async with working(client):
        choosy = user("a", claim="mine")
        choosy.spec.nodeSelector = {"kubernetes.io/hostname": "n2"}
        fresh = await client.resource(type(node("n2"))).get("n2")
        fresh.metadata.labels["kubernetes.io/hostname"] = "n2"
        await client.resource(type(fresh)).update(fresh)
        await pods.create(choosy)
        bound = await when(client, "a", lambda p: bool(p.spec.nodeName))
        assert bound.spec.nodeName == "n2"
        found = await claims.get("mine", "default")
        assert found.status.allocation is not None
        assert found.status.allocation.devices.results[0].pool == "n2"


async def test_bad_selectors_are_told_and_missing_claims_are_waited_for(client: Client) -> None:
    pods, claims = client.resource(Pod), client.resource(ResourceClaim)
    await add_node(client, node("n1"))
    await client.resource(DeviceClass).create(device_class())
    await client.resource(ResourceSlice).create(gpus("n1", {"name": "gpu-0"}))
    async with working(client):
        await claims.create(claim("bad", f'device.attributes["{DRIVER}"].what == 1'))
        await pods.create(user("a", claim="bad"))
        told = await when(client, "a", lambda p: "no such key" in why(p))
        assert why(told) == (
            'running "DynamicResources" filter plugin: claim default/bad: selector #0: CEL runtime '
            "error: no such key: what"
        )
        await pods.create(user("b", claim="later"))
        await claims.create(claim("later"))
        assert (await when(client, "b", lambda p: bool(p.spec.nodeName))).spec.nodeName == "n1"


async def test_extended_resources_are_had_as_devices(client: Client) -> None:
    pods, claims = client.resource(Pod), client.resource(ResourceClaim)
    await add_node(client, node("n1"))
    await client.resource(DeviceClass).create(device_class(extendedResourceName="example.com/gpu"))
    await client.resource(ResourceSlice).create(
        gpus("n1", {"name": "gpu-0"}, {"name": "gpu-1"}, {"name": "gpu-2"})
    )
    async with working(client):
        asking = pod("a")
        for name, count in (
            ("example.com/gpu", "1"),
            ("deviceclass.resource.kubernetes.io/gpu", "2"),
        ):
            asking.spec.containers[0].resources.requests[name] = count
            asking.spec.containers[0].resources.limits[name] = count
        await pods.create(asking)
        bound = await when(client, "a", lambda p: bool(p.spec.nodeName))
        extended = bound.status.extendedResourceClaimStatus
        assert extended is not None
        assert extended.requestMappings == [
            ContainerExtendedResourceRequest(
                containerName="c",
                resourceName="deviceclass.resource.kubernetes.io/gpu",
                requestName="container-0-request-1",
            ),
            ContainerExtendedResourceRequest(
                containerName="c",
                resourceName="example.com/gpu",
                requestName="container-0-request-2",
            ),
        ]
        found = await claims.get(extended.resourceClaimName, "default")
        assert found.metadata.name.startswith("a-extended-resources-")
        assert found.metadata.annotations == {EXTENDED_CLAIM: "true"}
        assert found.status.allocation is not None
        assert len(found.status.allocation.devices.results) == 3
        again = pod("b")
        again.spec.containers[0].resources.requests["example.com/gpu"] = "1"
        again.spec.containers[0].resources.limits["example.com/gpu"] = "1"
        await pods.create(again)
        await when(client, "b", lambda p: "cannot allocate all claims" in why(p))
        await pods.delete("a", "default", grace_period=0)
        # The garbage collector takes the claim away, which is not at work here.
        await claims.delete(found.metadata.name, "default")
        await when(client, "b", lambda p: bool(p.spec.nodeName))


async def test_devices_that_are_prepared_for_their_node(client: Client) -> None:
    pods, claims = client.resource(Pod), client.resource(ResourceClaim)
    await add_node(client, node("n1"))
    await client.resource(DeviceClass).create(device_class())
    fabric = {
        "name": "gpu-0",
        "bindsToNode": True,
        "bindingConditions": ["attached"],
        "bindingFailureConditions": ["broken"],
    }
    await client.resource(ResourceSlice).create(gpus("n1", fabric))
    async with working(client):
        await claims.create(claim("mine"))
        await pods.create(user("a", claim="mine"))
        async with asyncio.timeout(60):
            async for event in claims.watch("default"):
                if event.object.status.allocation is not None:
                    break
        assert not (await pods.get("a", "default")).spec.nodeName
        found = await claims.get("mine", "default")
        condition = {
            "type": "attached",
            "status": "True",
            "reason": "Done",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        reported = {
            "driver": DRIVER,
            "pool": "n1",
            "device": "gpu-0",
            "conditions": [condition],
        }
        found.status.devices = from_object(
            ResourceClaim, {"status": {"devices": [reported]}}
        ).status.devices
        await claims.update_status(found)
        assert (await when(client, "a", lambda p: bool(p.spec.nodeName))).spec.nodeName == "n1"

"""Endpoints and EndpointSlices of Services, as clients see the controllers keep them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from navarch.api.types.core_v1 import (
    Container,
    ContainerPort,
    Endpoints,
    Node,
    Pod,
    PodCondition,
    PodIP,
    PodSpec,
    PodStatus,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client

from .conftest import eventually, running

SPACE = "default"
CONTROLLERS = ("endpoints", "endpointslice")
MANAGER = "endpointslice-controller.k8s.io"
TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"


async def make_pod(client: Client, name: str, labels: dict[str, str], **ports: int) -> Pod:
    """A pod that runs and is ready, as a kubelet would tell."""
    pods = client.resource(Pod)
    listed = [ContainerPort(name=n.replace("_", "-"), containerPort=p) for n, p in ports.items()]
    spec = PodSpec(
        nodeName="n1", containers=[Container(name="c", image="registry.example/c", ports=listed)]
    )
    meta = ObjectMeta(name=name, namespace=SPACE, labels=labels)
    pod = await pods.create(Pod(metadata=meta, spec=spec))
    address = f"10.244.0.{10 + len(name) + int(name[-1])}"
    pod.status = PodStatus(
        phase="Running",
        podIP=address,
        podIPs=[PodIP(ip=address)],
        conditions=[
            PodCondition(type="Ready", status="True", lastTransitionTime="2030-01-01T00:00:00Z")
        ],
    )
    return await pods.update_status(pod)


async def make_service(
    client: Client, name: str, labels: dict[str, str], target: int | str = 0
) -> Service:
    ports = [ServicePort(name="http", port=80, targetPort=target or 80)]
    spec = ServiceSpec(selector=labels, ports=ports)
    meta = ObjectMeta(name=name, namespace=SPACE)
    return await client.resource(Service).create(Service(metadata=meta, spec=spec))


async def slices_of(client: Client, name: str) -> list[EndpointSlice]:
    selector = f"kubernetes.io/service-name={name},endpointslice.kubernetes.io/managed-by={MANAGER}"
    found = await client.resource(EndpointSlice).list(SPACE, label_selector=selector)
    return list(found.items)


def in_slices(slices: list[EndpointSlice]) -> set[tuple[str, int]]:
    """Addresses and ports."""
    return {
        (address, port.port or 0)
        for slice_ in slices
        for port in slice_.ports
        for endpoint in slice_.endpoints
        for address in endpoint.addresses
    }


def in_subsets(endpoints: Endpoints) -> set[tuple[str, int]]:
    return {
        (address.ip, port.port)
        for subset in endpoints.subsets
        for port in subset.ports
        for address in subset.addresses
    }


@pytest.fixture
async def pods(client: Client) -> list[Pod]:
    await client.resource(Node).create(Node(metadata=ObjectMeta(name="n1")))
    first = {"pod1": "on", "shared12": "on"}
    second = {"pod2": "on", "shared12": "on"}
    return [
        await make_pod(client, "pod1", first, example_name=3000),
        await make_pod(client, "pod2", second, example_name=3001, other_port=3002),
    ]


@pytest.mark.conformance(
    "EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service",
    "EndpointsController should create Endpoints for Pods matching a Service",
)
async def test_pods_that_match(client: Client, pods: list[Pod]) -> None:
    async with running(client, *CONTROLLERS):
        one, two = (each.status.podIP for each in pods)
        cases: list[tuple[str, dict[str, str], int | str, set[tuple[str, int]]]] = [
            ("example-int-port", {"pod1": "on"}, 3000, {(one, 3000)}),
            ("example-named-port", {"shared12": "on"}, "example-name", {(one, 3000), (two, 3001)}),
            ("example-other-port", {"shared12": "on"}, "other-port", {(two, 3002)}),
        ]
        endpoints = client.resource(Endpoints)
        for name, labels, target, expected in cases:
            owner = await make_service(client, name, labels, target)

            uid = owner.metadata.uid

            async def is_right(name: str = name, expected: Any = expected, uid: str = uid) -> bool:
                found = await slices_of(client, name)
                assert in_slices(found) == expected
                assert in_subsets(await endpoints.get(name, SPACE)) == expected
                assert {each.metadata.ownerReferences[0].uid for each in found} == {uid}
                for slice_ in found:
                    for endpoint in slice_.endpoints:
                        assert endpoint.nodeName == "n1"
                        assert endpoint.targetRef is not None
                        assert endpoint.targetRef.uid in {each.metadata.uid for each in pods}
                return True

            await eventually(is_right, name)
            if name != "example-named-port":
                continue
            # What somebody deletes comes back.
            for slice_ in await slices_of(client, name):
                await client.resource(EndpointSlice).delete(slice_.metadata.name, SPACE)
            await endpoints.delete(name, SPACE)
            await eventually(is_right, f"{name} again")


@pytest.mark.conformance(
    "EndpointSlice should create and delete EndpointSlices for a Service with a selector that "
    "matches no pods",
    "EndpointsController should create and delete Endpoints for a Service with a selector that "
    "matches no pods",
)
async def test_a_selector_that_matches_no_pods(client: Client) -> None:
    async with running(client, *CONTROLLERS, "garbagecollector"):
        await make_service(client, "example-empty-selector", {"does-not-match": "anything"})
        endpoints = client.resource(Endpoints)

        async def is_there() -> bool:
            found = await slices_of(client, "example-empty-selector")
            assert [(each.endpoints, each.ports) for each in found] == [([], [])]
            return not (await endpoints.get("example-empty-selector", SPACE)).subsets

        await eventually(is_there, "the empty endpoints")
        await client.resource(Service).delete("example-empty-selector", SPACE)

        async def is_gone() -> bool:
            names = [each.metadata.name for each in (await endpoints.list(SPACE)).items]
            assert "example-empty-selector" not in names
            return not await slices_of(client, "example-empty-selector")

        await eventually(is_gone, "their end")


async def test_a_change_is_dated(client: Client, pods: list[Pod]) -> None:
    """The time that the pod got ready, by which readers measure how late they are."""
    async with running(client, *CONTROLLERS):
        await make_service(client, "dated", {"late": "yes"})

        async def is_empty() -> bool:
            return len(await slices_of(client, "dated")) == 1

        await eventually(is_empty, "the slice")
        await make_pod(client, "late3", {"late": "yes"})

        async def is_dated() -> bool:
            only = (await slices_of(client, "dated"))[0]
            found = await client.resource(Endpoints).get("dated", SPACE)
            for meta in (only.metadata, found.metadata):
                assert meta.annotations[TRIGGER] == "2030-01-01T00:00:00Z"
            return bool(only.endpoints)

        await eventually(is_dated, "the date")


TRIALS, AT_ONCE = 200, 15
MEDIAN_SECONDS, TAIL_SECONDS = 20.0, 50.0


@pytest.mark.conformance("Service endpoints latency should not be very high")
async def test_latency(client: Client) -> None:
    await client.resource(Node).create(Node(metadata=ObjectMeta(name="n1")))
    await make_pod(client, "svc-latency-rc1", {"name": "svc-latency-rc"})
    seen: dict[str, asyncio.Event] = {}
    slices = client.resource(EndpointSlice)

    async def follow() -> None:
        async for event in slices.watch(SPACE, resource_version="0"):
            assert isinstance(event.object, EndpointSlice)
            name = event.object.metadata.labels.get("kubernetes.io/service-name", "")
            if event.object.endpoints and name in seen:
                seen[name].set()

    async def trial(number: int) -> float:
        async with turns:
            name = f"latency-svc-{number}"
            seen[name] = asyncio.Event()
            began = time.monotonic()
            await make_service(client, name, {"name": "svc-latency-rc"})
            async with asyncio.timeout(TAIL_SECONDS):
                await seen[name].wait()
            return time.monotonic() - began

    turns = asyncio.Semaphore(AT_ONCE)
    async with running(client, *CONTROLLERS):
        following = asyncio.create_task(follow())
        try:
            took = sorted(await asyncio.gather(*map(trial, range(TRIALS))))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    assert took[TRIALS // 2] < MEDIAN_SECONDS
    assert took[TRIALS * 99 // 100] < TAIL_SECONDS

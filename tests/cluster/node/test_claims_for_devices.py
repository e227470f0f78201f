"""Devices of claims, from the driver's slice to the container: with a driver that speaks the real
protocol, the controller of claims, the scheduler, the node agent and a real runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tests.cluster.node.conftest import NODE, Cluster, eventually, pod, shell
from tests.cluster.node.test_pod_life import FOREVER, is_ready
from tests.dra_driver import DRIVER, DraDriver
from tests.tasks import running

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Pod
from navarch.api.types.resource_v1 import (
    DeviceClass,
    ResourceClaim,
    ResourceClaimTemplate,
    ResourceSlice,
)
from navarch.controllers.manager import ManagerOptions, run_controllers
from navarch.node.devices import podresources_pb2 as resources
from navarch.node.dra import cdi
from navarch.node.dra.records import decode
from navarch.scheduler.main import run_scheduler
from navarch.scheduler.scheduler import Settings

pytestmark = pytest.mark.cluster


@asynccontextmanager
async def control_plane(cluster: Cluster) -> AsyncIterator[None]:
    options = ManagerOptions(kubeconfig="", controllers=("resourceclaim-controller",))
    async with running(
        run_controllers(cluster.client, options), run_scheduler(cluster.client, Settings())
    ):
        yield


@asynccontextmanager
async def driving(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[DraDriver]:
    """A driver that has registered and published two devices."""
    root = cluster.options.root_directory
    specs = Path(cluster.options.runtime_endpoint.removeprefix("unix://")).parent / "cdi"
    monkeypatch.setattr(cdi, "DIRECTORIES", (specs,))
    driver = DraDriver(cluster.client, root / "plugins" / DRIVER, specs, NODE, **options)
    async with driver, driver.registrar(root / "plugins_registry") as registrar:
        status = await registrar.status()
        assert status.plugin_registered, status.error
        await driver.publish("gpu-0", "gpu-1")
        yield driver


async def prepare_api(cluster: Cluster) -> None:
    client = cluster.client
    await client.resource(DeviceClass).create(
        from_object(DeviceClass, {"metadata": {"name": "gpu"}, "spec": {}})
    )
    meta = {"name": "two", "namespace": "default"}
    await client.resource(ResourceClaimTemplate).create(
        from_object(ResourceClaimTemplate, {"metadata": meta, "spec": {"spec": spec("a", "b")}})
    )


def spec(*requests: str) -> dict[str, Any]:
    exactly = {"deviceClassName": "gpu"}
    return {"devices": {"requests": [{"name": name, "exactly": exactly} for name in requests]}}


async def claim(cluster: Cluster, name: str) -> None:
    meta = {"name": name, "namespace": "default"}
    made = from_object(ResourceClaim, {"metadata": meta, "spec": spec("r")})
    await cluster.client.resource(ResourceClaim).create(made)


def using(
    name: str, *containers: dict[str, Any], of: str = "", template: str = ""
) -> dict[str, Any]:
    """A pod for the scheduler."""
    source = {"resourceClaimTemplateName": template} if template else {"resourceClaimName": of}
    claims = [{"name": "gpus", **source}]
    made = pod(name, *containers, resourceClaims=claims, tolerations=[{"operator": "Exists"}])
    made["spec"]["nodeName"] = ""
    return made


def given(name: str, request: str = "", script: str = FOREVER) -> dict[str, Any]:
    use = {"name": "gpus", **({"request": request} if request else {})}
    return shell(name, f"env | grep ^GPU_ | sort; {script}", resources={"claims": [use]})


def checkpoint(cluster: Cluster) -> list[tuple[str, int]]:
    """Claims and how many pods use them, as they are written down."""
    path = cluster.options.root_directory / "dra_manager_state"
    return [(each.name, len(each.pods)) for each in decode(path.read_bytes())]


async def test_containers_get_the_devices_of_their_requests(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two requests of one claim, one container with both, one with one, one with none."""
    await prepare_api(cluster)
    edits = {"deviceNodes": [{"path": "/dev/gadget", "hostPath": "/dev/null"}]}
    async with control_plane(cluster), driving(cluster, monkeypatch, edits=edits) as driver:
        await cluster.create(
            using(
                "web",
                given("both", script=f"ls /dev/gadget; {FOREVER}"),
                given("one", "b"),
                shell("none", f"env | grep ^GPU_; ls /dev/gadget; {FOREVER}"),
                template="two",
            )
        )
        running = await cluster.wait("web", is_ready)
        await printed(cluster, running, "both", "GPU_A=gpu-0\nGPU_B=gpu-1\n/dev/gadget")
        await printed(cluster, running, "one", "GPU_B=gpu-1")
        await printed(cluster, running, "none", "ls: /dev/gadget: No such file or directory")
        name = running.status.resourceClaimStatuses[0].resourceClaimName or ""
        assert driver.calls == [("prepare", [name])]
        assert checkpoint(cluster) == [(name, 1)]
        assert await monitored(cluster) == [(name, f"{DRIVER}/{NODE}/gpu-0"),
                                            (name, f"{DRIVER}/{NODE}/gpu-1")]  # fmt: skip
        await cluster.delete("web")
        await cluster.wait_gone("web")
        assert driver.calls[1:] == [("unprepare", [name])]
        assert checkpoint(cluster) == []

        async def is_free() -> bool:
            found = await cluster.client.resource(ResourceClaim).get(name, "default")
            return found.status.allocation is None and not found.status.reservedFor

        # There is no garbage collector here to take the claim away.
        await eventually(is_free)


async def printed(cluster: Cluster, pod: Pod, container: str, text: str) -> None:
    """A container that is ready may not have come to print everything yet."""
    seen = ""

    async def is_there() -> bool:
        nonlocal seen
        seen = await cluster.logs(pod, container)
        return seen == text

    try:
        await eventually(is_there)
    except TimeoutError:
        raise AssertionError(f"{container} has printed {seen!r}") from None


async def monitored(cluster: Cluster) -> list[tuple[str, str]]:
    """Claims and devices of the first container, as exporters of metrics ask for them."""
    socket = cluster.options.root_directory / "pod-resources" / "kubelet.sock"
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        call = channel.unary_unary(
            "/v1.PodResourcesLister/List",
            request_serializer=resources.ListPodResourcesRequest.SerializeToString,
            response_deserializer=resources.ListPodResourcesResponse.FromString,
        )
        answer = await call(resources.ListPodResourcesRequest(), timeout=60)
    return [
        (claim.claim_name, f"{each.driver_name}/{each.pool_name}/{each.device_name}")
        for claim in answer.pod_resources[0].containers[0].dynamic_resources
        for each in claim.claim_resources
    ]


async def test_a_shared_claim_outlives_pods_and_agents(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prepared for the first pod, given back after the last, though the agent was killed between:
    one pod was deleted by force while it was away."""
    await prepare_api(cluster)
    await claim(cluster, "shared")
    async with control_plane(cluster), driving(cluster, monkeypatch, version="v1beta1") as driver:
        for name in ("first", "second"):
            await cluster.create(using(name, given("main"), of="shared"))
        for name in ("first", "second"):
            running = await cluster.wait(name, is_ready)
            await printed(cluster, running, "main", "GPU_R=gpu-0")
        assert driver.calls == [("prepare", ["shared"])]
        assert checkpoint(cluster) == [("shared", 2)]
        await cluster.stop_agent()
        await cluster.delete("first", grace=0)
        monkeypatch.setattr("navarch.node.dra.manager.RECONCILE_SECONDS", 0.2)
        cluster.start_agent()

        async def has_one() -> bool:
            return checkpoint(cluster) == [("shared", 1)]

        await eventually(has_one)
        assert driver.calls == [("prepare", ["shared"])]
        await cluster.delete("second")
        await cluster.wait_gone("second")
        assert driver.calls == [("prepare", ["shared"]), ("unprepare", ["shared"])]


async def test_what_a_driver_refuses_is_told_and_tried_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare_api(cluster)
    await claim(cluster, "mine")
    async with control_plane(cluster), driving(cluster, monkeypatch, fails="on fire") as driver:
        await cluster.create(using("web", given("main", script="true"), of="mine"))

        async def is_told() -> bool:
            text = (
                "Failed to prepare dynamic resources: prepare dynamic resources: "
                "NodePrepareResources failed for ResourceClaim mine: on fire"
            )
            return ("FailedPrepareDynamicResources", text) in await cluster.events("web")

        await eventually(is_told)
        driver.fails = ""
        await cluster.wait("web", lambda p: bool(p.status.containerStatuses))


async def test_health_and_the_end_of_a_driver(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a driver says of its devices is in the pod's status; when it is gone for good, its
    devices are taken off the market."""
    monkeypatch.setattr("navarch.node.dra.drivers.WIPE_SECONDS", 0.2)
    await prepare_api(cluster)
    await claim(cluster, "mine")
    health = {"gpu-0": "HEALTHY"}
    async with control_plane(cluster):
        async with driving(cluster, monkeypatch, health=health) as driver:
            await cluster.create(using("web", given("main"), of="mine"))

            def state(pod: Pod) -> list[tuple[str, str, str | None]]:
                return [
                    (status.name, each.health, each.message)
                    for container in pod.status.containerStatuses
                    for status in container.allocatedResourcesStatus
                    for each in status.resources
                ]

            await cluster.wait("web", lambda p: state(p) == [("claim:gpus", "Healthy", None)])
            await driver.tell(**{"gpu-0": "UNHEALTHY"})
            ill = [("claim:gpus", "Unhealthy", "overheated")]
            await cluster.wait("web", lambda p: state(p) == ill)
            slices = cluster.client.resource(ResourceSlice)
            assert [each.spec.driver for each in (await slices.list()).items] == [DRIVER]
            await cluster.delete("web")
            await cluster.wait_gone("web")

        async def is_withdrawn() -> bool:
            return not (await slices.list()).items

        await eventually(is_withdrawn)

"""The node under pressure, with real containers: what is short, who goes, and what they get."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell
from tests.device_plugin import RESOURCE, DevicePlugin, device_plugin

from navarch.api.types.core_v1 import Node, Pod

pytestmark = pytest.mark.cluster

FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"


def is_running(pod: Pod) -> bool:
    statuses = pod.status.containerStatuses
    return bool(statuses) and all(each.state.running is not None for each in statuses)


def has_failed(pod: Pod) -> bool:
    return pod.status.phase == "Failed"


def condition(pod: Pod, kind: str) -> tuple[str, str, str]:
    (found,) = [each for each in pod.status.conditions if each.type == kind]
    return found.status, found.reason, found.message


async def node_until(cluster: Cluster, check: Any) -> Node:
    async with asyncio.timeout(30):
        while True:
            async for event in cluster.client.resource(Node).watch():
                if event.type in ("ADDED", "MODIFIED") and check(event.object):
                    return event.object


async def plugin_ready(cluster: Cluster, plugin: DevicePlugin) -> None:
    await plugin.register()
    await node_until(cluster, lambda node: node.status.allocatable.get(RESOURCE) == "2")


async def test_devices(cluster: Cluster) -> None:
    """A vendor's plug-in: the node counts its devices, a container has them, and keeps them while
    the agent is restarted; what cannot be given is refused."""
    directory = cluster.options.root_directory / "device-plugins"
    await eventually(lambda: asyncio.to_thread((directory / "kubelet.sock").is_socket))
    async with device_plugin(directory) as plugin:
        await plugin_ready(cluster, plugin)
        script = f"echo $GADGETS; ls /dev/gadget-a; ls /gadget/gadget.sock; {FOREVER}"
        limits = {"resources": {"limits": {RESOURCE: "1"}, "requests": {RESOURCE: "1"}}}
        await cluster.create(pod("user", shell("main", script, **limits)))
        user = await cluster.wait("user", is_running)
        assert await cluster.logs(user, "main") == "a\n/dev/gadget-a\n/gadget/gadget.sock"
        (status,) = user.status.containerStatuses[0].allocatedResourcesStatus
        assert (status.name, [(each.resourceID, each.health) for each in status.resources]) == (
            RESOURCE, [("a", "Healthy")],
        )  # fmt: skip
        await plugin.change(a="Unhealthy")
        await cluster.wait(
            "user",
            lambda each: each.status.containerStatuses[0].allocatedResourcesStatus[0]
            .resources[0].health == "Unhealthy",
        )  # fmt: skip
        await cluster.stop_agent()
        cluster.start_agent()
        # Plug-ins see that the agent's socket is another one; theirs has been removed with it.
        await eventually(
            lambda: asyncio.to_thread(lambda: not (directory / "gadget.sock").exists())
        )
    async with device_plugin(directory) as plugin:
        await eventually(lambda: asyncio.to_thread((directory / "kubelet.sock").is_socket))
        await plugin_ready(cluster, plugin)
        greedy = {"resources": {"limits": {RESOURCE: "2"}, "requests": {RESOURCE: "2"}}}
        await cluster.create(pod("greedy", shell("main", FOREVER, **greedy)))
        refused = await cluster.wait("greedy", has_failed)
        assert (refused.status.reason, refused.status.message) == (
            "UnexpectedAdmissionError",
            "Pod was rejected: Allocate failed due to requested number of devices unavailable for "
            f"{RESOURCE}. Requested: 2, Available: 1, which is unexpected",
        )
        again = await cluster.get("user")
        assert again.status.containerStatuses[0].containerID == (
            user.status.containerStatuses[0].containerID
        )

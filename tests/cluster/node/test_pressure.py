"""The node under pressure, with real containers: what is short, who goes, and what they get."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import (
    NODE,
    Cluster,
    eventually,
    pod,
    remove_all_pods,
    shell,
)
from tests.cluster.node.environment import run
from tests.device_plugin import RESOURCE, DevicePlugin, device_plugin

from navarch.api.quantity import Quantity
from navarch.api.types.core_v1 import Node, Pod
from navarch.node import evicting
from navarch.node.cgroups import Cgroups
from navarch.node.machine import memory_total_and_available
from navarch.node.memory_events import memory_events
from navarch.node.settings import REPLACED
from navarch.node.thresholds import Amount, Threshold

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
    async with asyncio.timeout(60):
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
        await cluster.says(user, "main", "a\n/dev/gadget-a\n/gadget/gadget.sock")
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
        # What the node said before the restart must not be taken for what it says after it.
        await node_until(cluster, lambda node: node.status.allocatable.get(RESOURCE) != "2")
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


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node looks at its pods more often than it needs to."""
    monkeypatch.setattr(evicting, "INTERVAL_SECONDS", 0.5)


def limited(name: str, script: str, **fields: Any) -> dict[str, Any]:
    limits = {"limits": {"ephemeral-storage": "2Mi"}}
    return shell(name, f"{script}; {FOREVER}", resources=limits, **fields)


FILL = "dd if=/dev/zero bs=1M count=4 2>/dev/null"


async def test_pods_that_fill_the_disk(attentive: None, cluster: Cluster) -> None:
    """Each way to write onto the node's disk is measured: a volume, the writable layer, what is
    printed, and files of the node that are mounted into every container."""
    total = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "
    volume = {"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    expected = {
        "volume": (
            shell("main", f"{FILL} > /v/x; {FOREVER}", **mount),
            'Usage of EmptyDir volume "v" exceeds the limit "1Mi". ',
        ),
        "layer": (limited("main", f"{FILL} > /x"), total),
        "printer": (limited("main", f"{FILL} | tr '\\0' '\\n' | sed s/^/1234567/"), total),
        "hosts": (limited("main", f"{FILL} > /etc/hosts"), total),
        "message": (limited("main", f"{FILL} > /dev/termination-log"), total),
    }
    quiet = limited("main", "true", **mount)
    for name, container in {"quiet": quiet, **{k: v for k, (v, _) in expected.items()}}.items():
        volumes = [volume] if "volumeMounts" in container else []
        await cluster.create(pod(name, container, volumes=volumes))
    for name, (_, message) in expected.items():
        evicted = await cluster.wait(name, has_failed)
        assert (evicted.status.reason, evicted.status.message) == ("Evicted", message), name
        await cluster.told(name, ("Evicted", message))
        assert "DisruptionTarget" not in {each.type for each in evicted.status.conditions}
        ended = evicted.status.containerStatuses[0].state.terminated
        assert ended is not None, name
    assert is_running(await cluster.wait("quiet", is_running))


async def test_a_full_disk(attentive: None, cluster: Cluster) -> None:
    """The node's own small disk: whoever fills it goes, the others stay, and it clears up."""
    await cluster.stop_agent()
    root = cluster.options.root_directory.parent / "small"
    root.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(root))
    try:
        cluster.start_agent(
            root_directory=root,
            eviction_hard={"nodefs.available": "10%"},
            eviction_pressure_transition_period=1.0,
        )
        volumes = [{"name": "v", "emptyDir": {}}]
        mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
        await cluster.create(pod("modest", shell("main", FOREVER, **mount), volumes=volumes))
        script = f"dd if=/dev/zero of=/v/x bs=1M count=60; {FOREVER}"
        await cluster.wait("modest", is_running)
        await cluster.create(pod("greedy", shell("main", script, **mount), volumes=volumes))
        node = await node_until(cluster, lambda node: pressed(node, "DiskPressure") == "True")
        (found,) = [each for each in node.status.conditions if each.type == "DiskPressure"]
        assert (found.reason, found.message) == (
            "KubeletHasDiskPressure", "kubelet has disk pressure",
        )  # fmt: skip
        greedy = await cluster.wait("greedy", has_failed)
        assert greedy.status.reason == "Evicted"
        assert greedy.status.message.startswith(
            "The node was low on resource: ephemeral-storage. Threshold quantity: "
        )
        assert condition(greedy, "DisruptionTarget") == (
            "True", "TerminationByKubelet", greedy.status.message,
        )  # fmt: skip
        await node_until(cluster, lambda node: pressed(node, "DiskPressure") == "False")
        assert is_running(await cluster.get("modest"))
        await cluster.create(pod("late", shell("main", FOREVER)))
        await cluster.wait("late", is_running)
    finally:
        await cluster.stop_agent()
        await remove_all_pods(cluster.runtime)
        for mounted in reversed(mounts_below(root)):
            run("umount", "-l", mounted)


def mounts_below(root: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [path for line in lines if (path := line.split()[4]).startswith(str(root))]


def pressed(node: Node, kind: str) -> str:
    return next((each.status for each in node.status.conditions if each.type == kind), "")


async def test_a_container_that_forks_without_end(cluster: Cluster) -> None:
    """It gets no more processes than its pod may have; the node and its neighbours live on."""
    await cluster.stop_agent()
    cluster.start_agent(pod_pids_limit=40)
    script = "(while :; do sleep 1000 & done) 2>/dev/null; exec sleep 1000"
    await cluster.create(pod("bomb", shell("main", script)))
    bomb = await cluster.wait("bomb", is_running)
    groups = Cgroups(cluster.options.cgroup_root)
    await eventually(lambda: asyncio.to_thread(lambda: groups.processes(bomb) >= 35))
    assert groups.processes(bomb) <= 40
    await cluster.create(pod("neighbour", shell("main", FOREVER)))
    await cluster.wait("neighbour", is_running)
    watching = asyncio.create_task(cluster.wait_gone("bomb"))
    await cluster.delete("bomb", 1)
    await watching
    await eventually(lambda: asyncio.to_thread(lambda: bomb.metadata.uid not in groups.pods()))


async def test_a_container_that_eats_memory(attentive: None, cluster: Cluster) -> None:
    """It is killed at its own limit, made again, and nobody else notices."""
    limits = {"resources": {"limits": {"memory": "24Mi"}}}
    hungry = shell("main", "sleep 1; x=0123456789; while :; do x=$x$x; done", **limits)
    await cluster.create(pod("hungry", hungry))
    await cluster.create(pod("neighbour", shell("main", FOREVER, **limits)))

    def was_killed(pod: Pod) -> bool:
        statuses = pod.status.containerStatuses
        ended = [each.lastState.terminated or each.state.terminated for each in statuses]
        return any(each is not None and each.reason == "OOMKilled" for each in ended)

    hungry_pod = await cluster.wait("hungry", was_killed)
    (status,) = hungry_pod.status.containerStatuses
    ended = status.lastState.terminated or status.state.terminated
    assert ended is not None and ended.exitCode == 137
    await cluster.wait("hungry", lambda each: each.status.containerStatuses[0].restartCount > 0)
    neighbour = await cluster.wait("neighbour", is_running)
    assert neighbour.status.containerStatuses[0].restartCount == 0


async def test_the_kernel_tells_of_memory_running_out() -> None:
    """Only cgroup v1's can."""
    groups = Cgroups()
    if groups.unified:
        pytest.skip("cgroup v2")
    _, available = memory_total_and_available()
    threshold = Threshold("memory.available", Amount(Quantity.of(available - (64 << 20))))
    events = memory_events(groups, threshold)
    waiting = asyncio.ensure_future(anext(events))
    try:
        eaten: list[bytearray] = []
        async with asyncio.timeout(60):
            while not waiting.done():
                if len(eaten) < 150:  # others may give some back meanwhile
                    eaten.append(bytearray(os.urandom(1 << 20)) * 8)
                await asyncio.wait({waiting}, timeout=0.02)
        await waiting
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]


async def test_the_node_shuts_down(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's end is the node's: pods end first, and the state is kept."""
    await cluster.stop_agent()
    cluster.start_agent(
        shutdown_on_terminate=True, shutdown_grace_period=12.0,
        shutdown_grace_period_critical_pods=4.0,
    )  # fmt: skip
    await cluster.create(pod("web", shell("main", FOREVER)))
    await cluster.wait("web", is_running)
    monkeypatch.setenv(REPLACED, "1")
    await cluster.stop_agent()
    assert (await cluster.get("web")).status.phase == "Running"  # another agent takes over
    cluster.start_agent()
    monkeypatch.delenv(REPLACED)
    await node_until(cluster, lambda node: pressed(node, "Ready") == "True")
    await cluster.wait("web", is_running)
    await cluster.create(pod("second", shell("main", FOREVER)))
    await cluster.wait("second", is_running)
    await cluster.stop_agent()
    web = await cluster.get("web")
    text = "Pod was terminated in response to imminent node shutdown."
    assert (web.status.phase, web.status.reason, web.status.message) == (
        "Failed", "Terminated", text,
    )  # fmt: skip
    assert condition(web, "DisruptionTarget") == ("True", "TerminationByKubelet", text)
    state = json.loads(
        (cluster.options.root_directory / "graceful_node_shutdown_state").read_text()
    )
    assert state["startTime"] <= state["endTime"]
    node = await cluster.client.resource(Node).get(NODE)
    (ready,) = [each for each in node.status.conditions if each.type == "Ready"]
    assert (ready.status, ready.message) == ("False", "node is shutting down")

"""The scheduler against the API server of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from navarch.api.types.core_v1 import Container, Event, Node, Pod, PodSchedulingGate, PodSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig
from navarch.scheduler.main import run_scheduler
from navarch.scheduler.profiles import default_profile
from navarch.scheduler.scheduler import Settings


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with Client(ClientConfig(api_server.url)) as client:
        yield client


@asynccontextmanager
async def scheduling(client: Client, name: str = "default-scheduler") -> AsyncIterator[None]:
    settings = Settings((default_profile(name),))
    task = asyncio.create_task(run_scheduler(client, settings, 1))
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def when(client: Client, name: str, check: Callable[[Pod], bool]) -> Pod:
    """The pod once it is as wanted."""
    async with asyncio.timeout(60):
        async for event in client.resource(Pod).watch(
            "default", field_selector=f"metadata.name={name}"
        ):
            if check(event.object):
                return event.object
    raise AssertionError("the watch ended")


def node(name: str, cpu: str = "4", **labels: str) -> Node:
    node = Node(metadata=ObjectMeta(name=name, labels=labels))
    node.status.allocatable = {"cpu": cpu, "memory": "8Gi", "pods": "110"}
    node.status.capacity = dict(node.status.allocatable)
    return node


def pod(name: str, cpu: str = "100m") -> Pod:
    container = Container(name="c", image="busybox")
    container.resources.requests = {"cpu": cpu}
    return Pod(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=PodSpec(containers=[container]),
    )


async def add_node(client: Client, wanted: Node) -> None:
    created = await client.resource(Node).create(wanted)
    created.status = wanted.status
    created.spec.taints = []
    created = await client.resource(Node).update_status(created)
    created.spec.taints = []
    await client.resource(Node).update(created)


async def test_a_pod_is_bound_and_told_of(client: Client) -> None:
    await add_node(client, node("n1"))
    async with scheduling(client):
        await client.resource(Pod).create(pod("a"))
        bound = await when(client, "a", lambda p: bool(p.spec.nodeName))
        assert bound.spec.nodeName == "n1"
        await client.resource(Pod).create(pod("b", "5"))
        failed = await when(client, "b", lambda p: bool(p.status.conditions))
        [condition] = failed.status.conditions
        assert (condition.type, condition.status, condition.reason) == (
            "PodScheduled",
            "False",
            "Unschedulable",
        )
        assert condition.message == (
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, "
            "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        )
        assert condition.observedGeneration == failed.metadata.generation
        # A node that is large enough comes.
        await add_node(client, node("n2", cpu="8"))
        assert (await when(client, "b", lambda p: bool(p.spec.nodeName))).spec.nodeName == "n2"
        events = {
            (e.involvedObject.name, e.reason): e
            async for e in events_until(client, {("a", "Scheduled"), ("b", "Scheduled")})
        }
        assert events["a", "Scheduled"].message == "Successfully assigned default/a to n1"
        assert events["b", "FailedScheduling"].type == "Warning"
        assert events["b", "FailedScheduling"].source.component == "default-scheduler"


async def test_gates_hold_a_pod_back(client: Client) -> None:
    pods = client.resource(Pod)
    await add_node(client, node("n1"))
    async with scheduling(client):
        gated = pod("gated")
        gated.spec.schedulingGates = [PodSchedulingGate(name="example.com/wait")]
        await pods.create(gated)
        await pods.create(pod("free"))
        await when(client, "free", lambda p: bool(p.spec.nodeName))
        held = await pods.get("gated", "default")
        assert not held.spec.nodeName
        assert held.status.conditions[0].reason == "SchedulingGated"
        await pods.patch("gated", "default", {"spec": {"schedulingGates": None}})
        await when(client, "gated", lambda p: p.spec.nodeName == "n1")


async def test_each_scheduler_minds_its_own_pods(client: Client) -> None:
    pods = client.resource(Pod)
    await add_node(client, node("n1", cpu="1"))
    other = pod("other", "600m")
    other.spec.schedulerName = "second"
    async with scheduling(client):
        await pods.create(other)
        await pods.create(pod("mine", "600m"))
        await when(client, "mine", lambda p: bool(p.spec.nodeName))
        async with scheduling(client, "second"):
            # It heeds what the first has placed.
            await when(client, "other", lambda p: bool(p.status.conditions))
            await pods.delete("mine", "default", grace_period=0)
            await when(client, "other", lambda p: p.spec.nodeName == "n1")


async def events_until(client: Client, wanted: set[tuple[str, str]]) -> AsyncIterator[Event]:
    """Events about pods, until the wanted ones were among them."""
    async with asyncio.timeout(60):
        async for event in client.resource(Event).watch("default"):
            wanted.discard((event.object.involvedObject.name, event.object.reason))
            yield event.object
            if not wanted:
                return

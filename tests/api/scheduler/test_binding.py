"""The scheduler against the API server of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from navarch.api.types.core_v1 import Container, Node, Pod, PodSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig
from navarch.scheduler.main import SchedulerOptions, run_scheduler

T = TypeVar("T")


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with Client(ClientConfig(api_server.url)) as client:
        yield client


@asynccontextmanager
async def scheduling(client: Client, name: str = "default-scheduler") -> AsyncIterator[None]:
    options = SchedulerOptions("", scheduler_name=name, random_seed=1)
    task = asyncio.create_task(run_scheduler(client, options))
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def when(client: Client, name: str, check: Callable[[Pod], bool]) -> Pod:
    """The pod once it is as wanted."""
    async with asyncio.timeout(10):
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
        print(failed.status.conditions)

"""Pods that nobody else takes away, against the API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Node, Pod
from navarch.client import Client, ControllerContext, InformerFactory
from navarch.controllers.pod_gc import PodGarbageCollector

from .conftest import add_node, eventually, pod


@asynccontextmanager
async def collecting(client: Client, quarantine: float) -> AsyncIterator[None]:
    context = ControllerContext(client, InformerFactory(client))
    collector = PodGarbageCollector(context, quarantine=quarantine)
    await context.informers.start()
    await context.informers.wait_synced()
    task = asyncio.create_task(collector.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await context.close()


async def is_gone(client: Client, name: str) -> bool:
    try:
        await client.resource(Pod).get(name, "default")
    except ApiError as error:
        return error.is_not_found
    return False


async def test_pods_of_a_lost_node_are_failed_and_deleted(client: Client) -> None:
    await add_node(client)
    made = pod("lost")
    made.metadata.finalizers = ["example.com/hold"]
    await client.resource(Pod).create(made)
    await client.resource(Pod).create(pod("stray", node="nowhere"))
    async with collecting(client, 0.1):
        await eventually(lambda: is_gone(client, "stray"), "the end of a pod of no node")
        assert not (await client.resource(Pod).get("lost", "default")).metadata.deletionTimestamp
        await client.resource(Node).delete("n1")

        async def is_taken() -> Pod | None:
            found = await client.resource(Pod).get("lost", "default")
            return found if found.metadata.deletionTimestamp else None

        found = await eventually(is_taken, "the deletion")
        assert found.status.phase == "Failed"
        (condition,) = [c for c in found.status.conditions if c.type == "DisruptionTarget"]
        assert (condition.reason, condition.message) == (
            "DeletionByPodGC",
            "PodGC: node no longer exists",
        )
        await client.resource(Pod).patch("lost", "default", {"metadata": {"finalizers": None}})
        await eventually(lambda: is_gone(client, "lost"), "the pod's end")


async def test_a_node_that_comes_back_in_time_keeps_its_pods(client: Client) -> None:
    await add_node(client)
    await add_node(client, "n2")
    await client.resource(Pod).create(pod("kept"))
    await client.resource(Pod).create(pod("lost", node="n2"))
    async with collecting(client, 3.0):
        for name in ("n1", "n2"):
            await client.resource(Node).delete(name)
        await add_node(client)
        await eventually(lambda: is_gone(client, "lost"), "the end of a pod whose turn is later")
        assert not await is_gone(client, "kept")


async def test_a_deleted_pod_without_a_node_goes_at_once(client: Client) -> None:
    held = pod("unbound", node="")
    held.metadata.finalizers = ["example.com/hold"]
    await client.resource(Pod).create(held)
    await client.resource(Pod).delete("unbound", "default")
    async with collecting(client, 40.0):

        async def is_failed() -> bool:
            found = await client.resource(Pod).get("unbound", "default")
            return found.status.phase == "Failed"

        await eventually(is_failed, "the failed phase")
        await client.resource(Pod).patch("unbound", "default", {"metadata": {"finalizers": None}})
        await eventually(lambda: is_gone(client, "unbound"), "the pod's end")

"""Pods that leave nodes with NoExecute taints, against the API server."""

from __future__ import annotations

import asyncio
from typing import Any

from navarch.api.types.core_v1 import Event, Pod, Toleration
from navarch.client import Client

from .conftest import NODE, add_node, eventually, pod, running

LONG_AGO = "2020-01-01T00:00:00Z"


async def create(client: Client, name: str, seconds: int | None) -> None:
    made = pod(name)
    made.spec.tolerations = [
        Toleration(key="evict", operator="Exists", effect="NoExecute", tolerationSeconds=seconds)
    ]
    await client.resource(Pod).create(made)


async def taint(client: Client, **fields: str) -> None:
    taints = [{"key": "evict", "effect": "NoExecute", **fields}] if fields else []
    nodes = client.dynamic("", "v1", "nodes", namespaced=False)
    await nodes.patch(NODE, "", {"spec": {"taints": taints}})


async def leaving(client: Client) -> dict[str, Any]:
    """Pods on their way out, and why."""
    found = (await client.resource(Pod).list("default")).items
    return {
        each.metadata.name: [condition.reason for condition in each.status.conditions]
        for each in found
        if each.metadata.deletionTimestamp
    }


async def told(client: Client, text: str) -> bool:
    events = (await client.resource(Event).list("default")).items
    return any((each.reason, each.message) == ("TaintManagerEviction", text) for each in events)


async def test_each_pod_has_its_time(client: Client) -> None:
    """It begins when taint and pod meet: people's taints tell no time, and old ones may meet new
    pods."""
    await add_node(client)
    for name, seconds in (("soon", 3), ("long", 3600), ("ever", None)):
        await create(client, name, seconds)
    await client.resource(Pod).create(pod("intolerant"))
    reason = ["DeletionByTaintManager"]
    async with running(client, "taint-eviction"):
        await taint(client, value="by-hand")

        async def one_has_gone() -> bool:
            return await leaving(client) == {"intolerant": reason}

        async def two_have_gone() -> bool:
            return await leaving(client) == {"intolerant": reason, "soon": reason}

        await eventually(one_has_gone, "the end of the intolerant pod")
        await eventually(two_have_gone, "the end of the other")
        await create(client, "late", 3600)
        await taint(client, value="old", timeAdded=LONG_AGO)
        await create(client, "later", 3600)
        await create(client, "last", 1)

        async def the_last_has_gone() -> bool:
            return "last" in await leaving(client)

        await eventually(the_last_has_gone, "the end of the last")
        assert {*await leaving(client)} == {"intolerant", "soon", "last"}
        await eventually(lambda: told(client, "Marking for deletion Pod default/soon"))


async def test_a_taint_that_goes_in_time_has_done_nothing(client: Client) -> None:
    await add_node(client)
    await create(client, "kept", 4)
    async with running(client, "taint-eviction"):

        async def has_been_cancelled() -> bool:
            """Nobody tells of what is only planned, so it may be too soon for it to be told."""
            await taint(client, value="short")
            await asyncio.sleep(0.2)
            await taint(client)
            return await told(client, "Cancelling deletion of Pod default/kept")

        await eventually(has_been_cancelled, "the word of it")
        await taint(client, value="again")
        begun = client.clock.monotonic()

        async def has_gone() -> bool:
            return "kept" in await leaving(client)

        await eventually(has_gone, "the end")
        assert client.clock.monotonic() - begun > 3.8, "each taint gives the whole time"

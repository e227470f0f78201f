"""Watches as clients of conformant clusters rely on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.api.conftest import Api, config_map

Object = dict[str, Any]
PATH = "/api/v1/namespaces/default/configmaps"


def watching(*values: str, revision: str = "") -> str:
    """The path that watches ConfigMaps with one of these labels."""
    selector = f"watched+in+({','.join(values)})"
    return f"{PATH}?watch=1&resourceVersion={revision}&labelSelector={selector}"


async def create(api: Api, name: str, label: str) -> Object:
    body = config_map(name)
    body["metadata"]["labels"] = {"watched": label}
    made: Object = (await api.post(PATH, body)).ok(201)
    return made


async def change(api: Api, name: str, mutation: str = "", label: str = "") -> Object:
    body: Object = {"data": {"mutation": mutation}} if mutation else {}
    if label:
        body["metadata"] = {"labels": {"watched": label}}
    changed: Object = (await api.patch(f"{PATH}/{name}", body)).ok()
    return changed


async def take(events: AsyncIterator[Object], count: int) -> list[tuple[str, Object]]:
    async with asyncio.timeout(60):
        found = [await anext(events) for _ in range(count)]
    return [(each["type"], each["object"]) for each in found]


@pytest.mark.conformance(
    "Watchers should observe add, update, and delete watch notifications on configmaps"
)
async def test_each_watcher_sees_what_it_selects_and_nothing_else(api: Api) -> None:
    async with (
        api.watch(watching("a")) as only_a,
        api.watch(watching("b")) as only_b,
        api.watch(watching("a", "b")) as both,
    ):
        of_a = [("ADDED", await create(api, "m-a", "a"))]
        of_a += [("MODIFIED", await change(api, "m-a", text)) for text in ("1", "2")]
        (await api.delete(f"{PATH}/m-a")).ok()
        of_b = [("ADDED", await create(api, "m-b", "b"))]
        (await api.delete(f"{PATH}/m-b")).ok()
        end = [("ADDED", await create(api, "end", "a")), ("ADDED", await create(api, "end-b", "b"))]
        seen_a, seen_b, seen = await take(only_a, 5), await take(only_b, 3), await take(both, 8)
    for found, expected in (
        (seen_a, [*of_a, "DELETED", end[0]]),
        (seen_b, [*of_b, "DELETED", end[1]]),
        (seen, [*of_a, "DELETED", *of_b, "DELETED", *end]),
    ):
        simple = [event[0] if event[0] == "DELETED" else event for event in found]
        assert simple == expected


@pytest.mark.conformance(
    "Watchers should be able to start watching from a specific resource version"
)
async def test_only_what_happened_after_a_revision(api: Api) -> None:
    await create(api, "m", "a")
    first = await change(api, "m", "1")
    second = await change(api, "m", "2")
    (await api.delete(f"{PATH}/m")).ok()
    async with api.watch(watching("a", revision=first["metadata"]["resourceVersion"])) as events:
        modified, deleted = await take(events, 2)
    assert modified == ("MODIFIED", second)
    assert (deleted[0], deleted[1]["data"]) == ("DELETED", {"mutation": "2"})
    assert int(deleted[1]["metadata"]["resourceVersion"]) > int(
        second["metadata"]["resourceVersion"]
    )


@pytest.mark.conformance(
    "Watchers should be able to restart watching from the last resource version observed by the "
    "previous watch"
)
async def test_a_watch_goes_on_where_another_ended(api: Api) -> None:
    async with api.watch(watching("a")) as events:
        added = await create(api, "m", "a")
        await change(api, "m", "1")
        seen = await take(events, 2)
    assert seen[0] == ("ADDED", added)
    missed = await change(api, "m", "2")
    last = seen[1][1]["metadata"]["resourceVersion"]
    async with api.watch(watching("a", revision=last)) as events:
        (await api.delete(f"{PATH}/m")).ok()
        modified, deleted = await take(events, 2)
    assert modified == ("MODIFIED", missed)
    assert deleted[0] == "DELETED"


@pytest.mark.conformance(
    "Watchers should observe an object deletion if it stops meeting the requirements of the "
    "selector"
)
async def test_an_object_leaves_a_selection_and_comes_back(api: Api) -> None:
    async with api.watch(watching("a")) as events:
        expected = [("ADDED", await create(api, "m", "a"))]
        expected.append(("MODIFIED", await change(api, "m", "1")))
        left = await change(api, "m", label="other")
        await change(api, "m", "2")
        back = [("ADDED", await change(api, "m", label="a"))]
        back.append(("MODIFIED", await change(api, "m", "3")))
        (await api.delete(f"{PATH}/m")).ok()
        seen = await take(events, 6)
    assert seen[:2] == expected
    assert seen[2][0] == "DELETED"
    assert seen[2][1]["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]
    assert seen[3:5] == back
    assert seen[5][0] == "DELETED"


ROUNDS = 40


@pytest.mark.conformance("Watchers should receive events on concurrent watches in same order")
async def test_concurrent_watches_agree(api: Api) -> None:
    """Each round adds a watch that begins at the last event of the first one; from then on it sees
    what all others see, while many clients write."""
    stopped = asyncio.Event()

    async def write(name: str) -> None:
        while not stopped.is_set():
            await api.post(PATH, config_map(name))
            await api.patch(f"{PATH}/{name}", {"data": {"k": "v"}})
            await api.delete(f"{PATH}/{name}")

    revision = (await api.get(PATH)).ok()["metadata"]["resourceVersion"]
    writers = [asyncio.create_task(write(f"m{number}")) for number in range(4)]
    try:
        async with AsyncExitStack() as stack, asyncio.timeout(60):
            watches: list[AsyncIterator[Object]] = []
            for _ in range(ROUNDS):
                path = f"{PATH}?watch=1&resourceVersion={revision}"
                watches.append(await stack.enter_async_context(api.watch(path)))
                events = await asyncio.gather(*(anext(watch) for watch in watches))
                assert all(event == events[0] for event in events)
                revision = events[0]["object"]["metadata"]["resourceVersion"]
            stopped.set()
            await asyncio.gather(*writers)
    finally:
        for writer in writers:
            writer.cancel()

"""What clients are told when the store fails under the server, or its watch of the store breaks."""

from __future__ import annotations

import asyncio

from tests.api.conftest import Api, config_map

from navarch.store.contract import Compacted, StoreFailed, WatchTooSlow
from navarch.store.engine import LogStore

PATH = "/api/v1/namespaces/default/configmaps"


async def test_a_failed_store_is_not_an_empty_one(api: Api) -> None:
    """Until the process ends, nobody may hear that what exists is not there."""
    (await api.post(PATH, config_map("x"))).ok(201)
    store = api.server.store
    assert isinstance(store, LogStore)
    store._fail(StoreFailed("disk I/O error"))
    async with asyncio.timeout(60):
        while api.server.core.hub.is_following:  # noqa: ASYNC110 - a plain flag
            await asyncio.sleep(0)
    assert (await api.get(f"{PATH}/x")).status == 200
    assert [each["metadata"]["name"] for each in (await api.get(PATH)).ok()["items"]] == ["x"]
    assert (await api.delete(f"{PATH}/x")).status == 500
    refused = await api.post(PATH, config_map("y"))
    assert (refused.status, b"disk" in refused.body) == (500, False)
    assert (await api.get("/readyz")).status == 500


async def test_a_hub_that_fell_behind_goes_on(api: Api) -> None:
    """Neither the caches nor those who watch notice that the hub's own watch was ended."""
    (await api.post(PATH, config_map("x"))).ok(201)
    store = api.server.store
    assert isinstance(store, LogStore)
    async with asyncio.timeout(60), api.watch(f"{PATH}?watch=1") as events:
        assert (await anext(events))["object"]["metadata"]["name"] == "x"
        store._hub.end_all(lambda: WatchTooSlow("too many unread events"))
        await store.put("/unrelated", b"")
        for name in ("y", "z"):
            (await api.post(PATH, config_map(name))).ok(201)
            assert (await api.get(f"{PATH}/x")).status == 200
            assert (await anext(events))["object"]["metadata"]["name"] == name
        assert api.server.core.hub.is_following


async def test_what_a_hub_has_missed_is_told_to_who_listens(api: Api) -> None:
    """After a break that takes a new look at everything; meanwhile nothing seems to be gone."""
    (await api.post(PATH, config_map("x"))).ok(201)
    core, store = api.server.core, api.server.store
    cache = core.catalog.get("rbac.authorization.k8s.io", "v1", "clusterroles").cache
    heard: list[tuple[str, ...]] = []
    cache.add_listener(
        lambda old, new: heard.append(tuple(each.name if each else "" for each in (old, new)))
    )
    assert isinstance(store, LogStore)
    async with asyncio.timeout(60):
        store._hub.end_all(lambda: Compacted(1))
        await store.delete(f"{cache.stored.prefix}view")
        while not heard:
            assert (await api.get(f"{PATH}/x")).status == 200
    assert heard == [("view", "")]
    assert (await api.post(PATH, config_map("y"))).status == 201
    assert core.hub.is_following

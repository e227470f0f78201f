"""Lists and watches: resourceVersions, pages, selectors, bookmarks, and what is too old."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.api.conftest import Api, config_map

from navarch.apiserver.hub import cache as hub_cache

Object = dict[str, Any]
PATH = "/api/v1/namespaces/default/configmaps"


async def make(api: Api, *names: str, **labels: str) -> list[Object]:
    made = []
    for name in names:
        obj = config_map(name)
        obj["metadata"]["labels"] = labels
        made.append((await api.post(PATH, obj)).ok(201))
    return made


async def take(events: AsyncIterator[Object], count: int) -> list[tuple[str, str]]:
    async with asyncio.timeout(60):
        found = [await anext(events) for _ in range(count)]
    return [(each["type"], each["object"]["metadata"].get("name", "")) for each in found]


async def test_pages_show_one_revision(api: Api) -> None:
    await make(api, *(f"m{number}" for number in range(5)))
    first = (await api.get(PATH + "?limit=2")).ok()
    assert first["metadata"]["remainingItemCount"] == 3
    await api.delete(f"{PATH}/m4")
    await make(api, "m9")
    token = first["metadata"]["continue"]
    second = (await api.get(f"{PATH}?limit=2&continue={token}")).ok()
    third = (await api.get(f"{PATH}?limit=2&continue={second['metadata']['continue']}")).ok()
    names = [each["metadata"]["name"] for page in (first, second, third) for each in page["items"]]
    assert names == ["m0", "m1", "m2", "m3", "m4"]
    assert len({page["metadata"]["resourceVersion"] for page in (first, second, third)}) == 1
    assert "continue" not in third["metadata"]
    exact = f"?resourceVersion={first['metadata']['resourceVersion']}&resourceVersionMatch=Exact"
    assert len((await api.get(PATH + exact)).ok()["items"]) == 5


async def test_limit_counts_for_nothing_with_revision_zero(api: Api) -> None:
    await make(api, "a", "b")
    found = (await api.get(PATH + "?limit=1&resourceVersion=0")).ok()
    assert len(found["items"]) == 2


async def test_selectors(api: Api) -> None:
    await make(api, "a", app="x")
    await make(api, "b", app="y")
    for query, names in (
        ("labelSelector=app%3Dx", ["a"]),
        ("labelSelector=app+in+(x,y),app!%3Dx", ["b"]),
        ("labelSelector=!app", []),
        ("fieldSelector=metadata.name%3Db", ["b"]),
        ("fieldSelector=metadata.name!%3Db,metadata.namespace%3Ddefault", ["a"]),
    ):
        found = (await api.get(f"{PATH}?{query}")).ok()
        assert [each["metadata"]["name"] for each in found["items"]] == names, query
    refused = await api.get(PATH + "?fieldSelector=data.k%3Dv")
    assert refused.status == 400
    assert '"data.k" is not a known field selector' in refused.json["message"]


async def test_a_watch_begins_with_the_state_or_after_a_revision(api: Api) -> None:
    made = await make(api, "a", "b")
    async with api.watch(PATH + "?watch=1") as events:
        assert await take(events, 2) == [("ADDED", "a"), ("ADDED", "b")]
    revision = made[0]["metadata"]["resourceVersion"]
    async with api.watch(f"{PATH}?watch=1&resourceVersion={revision}") as events:
        assert await take(events, 1) == [("ADDED", "b")]


async def test_initial_events_end_with_a_bookmark(api: Api) -> None:
    await make(api, "a")
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    async with api.watch(f"{PATH}?{query}&allowWatchBookmarks=true") as events:
        assert await take(events, 1) == [("ADDED", "a")]
        mark = await asyncio.wait_for(anext(events), 60)
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await make(api, "b")
        assert await take(events, 1) == [("ADDED", "b")]


async def test_bookmarks_tell_how_far_the_server_is(api: Api) -> None:
    await make(api, "a")
    query = "watch=1&allowWatchBookmarks=true&resourceVersion="
    revision = api.server.core.hub.revision
    async with api.watch(f"{PATH}?{query}{revision}") as events:
        api.server.core.hub.tick()
        mark = await asyncio.wait_for(anext(events), 60)
    assert mark["type"] == "BOOKMARK"
    assert int(mark["object"]["metadata"]["resourceVersion"]) >= revision


async def test_a_watch_from_too_long_ago_ends_with_an_error(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_cache, "HISTORY_EVENTS", 1)
    made = await make(api, "a", "b", "c")
    core = api.server.core
    await core.store.compact(core.hub.revision)
    revision = made[0]["metadata"]["resourceVersion"]
    answer = await api.get(f"{PATH}?watch=1&resourceVersion={revision}")
    event = json.loads(answer.body)
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


async def test_a_watch_ends_when_its_time_is_over(api: Api) -> None:
    answer = await asyncio.wait_for(api.get(PATH + "?watch=1&timeoutSeconds=1"), 60)
    assert (answer.status, answer.body) == (200, b"")


async def test_a_watch_over_a_websocket(api: Api) -> None:
    await make(api, "a", "b")
    watchers = api.server.core.catalog.get("", "v1", "configmaps").cache.watchers
    async with asyncio.timeout(60):
        async with api.session.ws_connect(f"{api.server.url}{PATH}?watch=1") as socket:
            await make(api, "c")
            seen = [await socket.receive_json() for _ in range(3)]
            await socket.send_str("ignored")
            (await api.delete(f"{PATH}/a")).ok()
            seen.append(await socket.receive_json())
            assert len(watchers()) == 1
        while True:
            if not watchers():
                break
            await asyncio.sleep(0.01)
        async with api.session.ws_connect(
            f"{api.server.url}{PATH}?watch=1&timeoutSeconds=1&resourceVersion=0"
        ) as socket:
            assert len([message async for message in socket]) == 2
            assert socket.close_code == 1000
    names = [(each["type"], each["object"]["metadata"]["name"]) for each in seen]
    assert names == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c"), ("DELETED", "a")]


async def test_metadata_only(api: Api) -> None:
    await make(api, "a")
    wanted = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    found = (await api.get(PATH, headers={"Accept": wanted})).ok()
    assert found["kind"] == "PartialObjectMetadataList"
    assert found["items"][0]["kind"] == "PartialObjectMetadata"
    assert "data" not in found["items"][0]


async def test_events_are_one_store_in_two_groups(api: Api) -> None:
    path = "/api/v1/namespaces/default/events"
    event = {
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "message": "hello",
        "reason": "Tested",
        "type": "Normal",
    }
    (await api.post(path, event)).ok(201)
    new = "/apis/events.k8s.io/v1/namespaces/default/events"
    found = (await api.get(new + "?fieldSelector=regarding.name%3Dp")).ok()
    assert [each["note"] for each in found["items"]] == ["hello"]
    assert (await api.get(path + "?fieldSelector=involvedObject.name%3Dq")).ok()["items"] == []

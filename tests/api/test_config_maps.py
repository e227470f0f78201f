"""Create, read, update, delete and watch of a plain kind, over HTTP."""

from __future__ import annotations

import asyncio

from tests.api.conftest import Api, config_map

PATH = "/api/v1/namespaces/default/configmaps"


async def test_life_of_an_object(api: Api) -> None:
    created = (await api.post(PATH, config_map("a", key="1"))).ok(201)
    assert created["metadata"]["uid"]
    assert int(created["metadata"]["resourceVersion"]) > 0
    assert (await api.get(f"{PATH}/a")).ok() == created
    created["data"]["key"] = "2"
    updated = (await api.put(f"{PATH}/a", created)).ok()
    assert int(updated["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])
    listed = (await api.get(PATH)).ok()
    assert [each["data"] for each in listed["items"]] == [{"key": "2"}]
    assert listed["kind"] == "ConfigMapList"
    assert "kind" not in listed["items"][0]
    status = (await api.delete(f"{PATH}/a")).ok()
    assert status["status"] == "Success"
    assert status["details"]["uid"] == created["metadata"]["uid"]
    assert (await api.get(f"{PATH}/a")).status == 404


async def test_watch_tells_every_change(api: Api) -> None:
    async with api.watch(PATH + "?watch=true") as events:
        await api.post(PATH, config_map("a", key="1"))
        await api.patch(f"{PATH}/a", {"data": {"key": "2"}})
        await api.delete(f"{PATH}/a")
        seen = [await asyncio.wait_for(anext(events), 60) for _ in range(3)]
    assert [each["type"] for each in seen] == ["ADDED", "MODIFIED", "DELETED"]
    versions = [int(each["object"]["metadata"]["resourceVersion"]) for each in seen]
    assert versions == sorted(set(versions))

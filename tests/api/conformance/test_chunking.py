"""Lists in chunks, of one state or, when that is forgotten, of several."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api.conftest import Api

Object = dict[str, Any]
PATH = "/api/v1/namespaces/default/podtemplates"
TOTAL = 400
NAMES = [f"template-{number:04}" for number in range(TOTAL)]
SERVERS = "Servers with support for API chunking should "


@pytest.fixture
async def templates(api: Api) -> None:
    template = {"spec": {"containers": [{"name": "test", "image": "test2"}]}}
    gate = asyncio.Semaphore(20)

    async def create(name: str) -> None:
        async with gate:
            (await api.post(PATH, {"metadata": {"name": name}, "template": template})).ok(201)

    await asyncio.gather(*map(create, NAMES))


async def pages(api: Api, limit: int, token: str = "", before: int = 0) -> list[Object]:
    """All pages from a token on, each of which says how many objects are left."""
    found: list[Object] = []
    while not found or token:
        page = (await api.get(f"{PATH}?limit={limit}&continue={token}")).ok()
        found.append(page)
        assert len(page["items"]) <= limit
        before += len(page["items"])
        token = page["metadata"].get("continue", "")
        assert page["metadata"].get("remainingItemCount", 0) == TOTAL - before
        assert ("remainingItemCount" in page["metadata"]) == bool(token)
    assert len({page["metadata"]["resourceVersion"] for page in found}) == 1
    return found


def names(found: list[Object]) -> list[str]:
    return [item["metadata"]["name"] for page in found for item in page["items"]]


@pytest.mark.conformance(SERVERS + "return chunks of results for list calls")
async def test_chunks(api: Api, templates: None) -> None:
    found = await pages(api, 17)
    assert [len(page["items"]) for page in found] == [17] * 23 + [9]
    assert names(found) == NAMES
    at_once = (await api.get(f"{PATH}?limit={TOTAL + 1}")).ok()
    assert names([at_once]) == NAMES
    assert "continue" not in at_once["metadata"]


@pytest.mark.conformance(
    SERVERS + "support continue listing from the last key if the original version has been "
    "compacted away, though the list is inconsistent [Slow]"
)
async def test_chunks_of_a_state_that_is_forgotten(api: Api, templates: None) -> None:
    limit = TOTAL // 10
    first = (await api.get(f"{PATH}?limit={limit}")).ok()
    assert first["metadata"]["remainingItemCount"] == TOTAL - limit
    token = first["metadata"]["continue"]
    (await api.patch(f"{PATH}/{NAMES[-1]}", {"metadata": {"labels": {"later": "yes"}}})).ok()
    core = api.server.core
    await core.store.compact(core.hub.revision)
    expired = await api.get(f"{PATH}?limit={limit}&continue={token}")
    assert (expired.status, expired.json["reason"]) == (410, "Expired")
    rest = await pages(api, limit, expired.json["metadata"]["continue"], before=limit)
    assert len(rest[0]["items"]) == limit
    assert rest[0]["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
    assert names(rest) == NAMES[limit:]

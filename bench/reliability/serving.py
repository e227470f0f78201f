"""What clients are told while others write: rows 6 to 9.

Nothing is killed here. A lost update, a list older than an acknowledged write, a reader that goes
back in time, or two pages of different moments would be faults of the server's caches.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

Object = dict[str, Any]
NAMESPACE = "/api/v1/namespaces/default"
PATH = f"{NAMESPACE}/configmaps"


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, body: Any = None, **query: str
) -> tuple[int, Object]:
    async with session.request(method, path, json=body, params=query) as response:
        return response.status, await response.json()


def revision_of(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


def config_map(name: str, **data: str) -> Object:
    return {"metadata": {"name": name, "labels": {"app": "load"}}, "data": data}


@asynccontextmanager
async def writing(
    session: aiohttp.ClientSession, chance: random.Random, writers: int, names: int
) -> AsyncIterator[None]:
    """Others create, replace and delete objects meanwhile."""
    is_over = False

    async def write() -> None:
        while not is_over:
            name = f"load-{chance.randrange(names)}"
            body = config_map(name, value=str(chance.random()))
            status, _ = await ask(session, "PUT", f"{PATH}/{name}", body)
            if status == 404:
                await ask(session, "POST", PATH, body)
            elif chance.random() < 0.2:
                await ask(session, "DELETE", f"{PATH}/{name}")

    tasks = [asyncio.create_task(write()) for _ in range(writers)]
    try:
        yield
    finally:
        is_over = True
        await asyncio.gather(*tasks)


@dataclass(slots=True)
class Counted:
    """How many clients counted, and what became of it."""

    increments: int = 0
    conflicts: int = 0
    lost: int = 0


async def count(session: aiohttp.ClientSession, clients: int, increments: int) -> Counted:
    """Row 6: clients add one to the same number, with GET and PUT."""
    found = Counted()
    status, _ = await ask(session, "POST", PATH, config_map("counter", number="0"))
    assert status == 201

    async def client() -> None:
        while found.increments < increments:
            _, obj = await ask(session, "GET", f"{PATH}/counter")
            obj["data"]["number"] = str(int(obj["data"]["number"]) + 1)
            status, _ = await ask(session, "PUT", f"{PATH}/counter", obj)
            if status == 200:
                found.increments += 1
            else:
                assert status == 409, status
                found.conflicts += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    _, obj = await ask(session, "GET", f"{PATH}/counter")
    found.lost = found.increments - int(obj["data"]["number"])
    return found


@dataclass(slots=True)
class Fresh:
    reads: int = 0
    stale: int = 0
    p99: float = 0.0


async def read_after_write(
    writer: aiohttp.ClientSession, reader: aiohttp.ClientSession, writes: int
) -> Fresh:
    """Row 7: what one client was told is done, another finds, however it asks."""
    found, seconds = Fresh(), []
    for number in range(writes):
        name, value = f"fresh-{number % 20}", f"v{number}"
        body = config_map(name, value=value)
        status, answer = await ask(writer, "PUT", f"{PATH}/{name}", body)
        if status == 404:
            status, answer = await ask(writer, "POST", PATH, body)
        assert status in (200, 201), answer
        revision = answer["metadata"]["resourceVersion"]
        for query in (
            {},
            {"labelSelector": "app=load"},
            {"fieldSelector": f"metadata.name={name}"},
            {"resourceVersion": revision, "resourceVersionMatch": "NotOlderThan"},
            {"resourceVersion": revision, "resourceVersionMatch": "Exact"},
        ):
            began = time.perf_counter()
            _, answer = await ask(reader, "GET", PATH, **query)
            seconds.append(time.perf_counter() - began)
            values = {each["metadata"]["name"]: each["data"] for each in answer["items"]}
            found.stale += values.get(name) != {"value": value}
            found.stale += revision_of(answer) < int(revision)
        _, obj = await ask(reader, "GET", f"{PATH}/{name}")
        found.stale += obj.get("data") != {"value": value}
        found.reads += 6
        if number % 7 == 6:
            await ask(writer, "DELETE", f"{PATH}/{name}")
            status, _ = await ask(reader, "GET", f"{PATH}/{name}")
            _, answer = await ask(reader, "GET", PATH)
            found.stale += status != 404
            found.stale += name in {each["metadata"]["name"] for each in answer["items"]}
            found.reads += 2
    found.p99 = sorted(seconds)[int(len(seconds) * 0.99)]
    return found


@dataclass(slots=True)
class Monotonic:
    requests: int = 0
    past: int = 0
    """Moments of the past that were still there when they were asked for again."""
    backwards: int = 0
    differences: int = 0


async def read_on(session: aiohttp.ClientSession, chance: random.Random, rounds: int) -> Monotonic:
    """Row 8: one reader asks in every way that there is. It never goes back in time, no object is
    newer than the list that it stands in, and a moment of the past looks the same again."""
    found, last = Monotonic(), 0
    exact: dict[str, list[Object]] = {}

    async def listed(**query: str) -> tuple[int, list[Object]]:
        status, answer = await ask(session, "GET", PATH, **query)
        assert status == 200, answer
        found.requests += 1
        revision, items = revision_of(answer), answer["items"]
        found.differences += any(revision_of(each) > revision for each in items)
        return revision, items

    for _ in range(rounds):
        revision, items = await listed()
        found.backwards += revision < last
        last = revision
        exact[str(revision)] = items
        revision, _ = await listed(resourceVersion="0")
        found.backwards += revision < last
        at_least = {"resourceVersion": str(last), "resourceVersionMatch": "NotOlderThan"}
        revision, _ = await listed(**at_least)
        found.backwards += revision < last
        last = max(last, revision)
        then = chance.choice(list(exact))
        past = {"resourceVersion": then, "resourceVersionMatch": "Exact"}
        status, answer = await ask(session, "GET", PATH, **past)
        found.requests += 1
        if status == 410:  # compacted meanwhile, where rounds take long
            exact.clear()
        else:
            assert status == 200, answer
            found.past += 1
            found.differences += answer["items"] != exact[then] or revision_of(answer) != int(then)
        status, obj = await ask(session, "GET", f"{PATH}/load-1")
        found.requests += 1
        if status == 200:
            found.backwards += revision_of(obj) > (await listed())[0]
    return found


@dataclass(slots=True)
class Paged:
    objects: int = 0
    pages: int = 0
    phantoms: int = 0


async def page(session: aiohttp.ClientSession, objects: int, rounds: int) -> Paged:
    """Row 9: the pages of one list are one moment, whatever is written while they are turned."""
    found = Paged(objects)
    if objects:
        made = asyncio.Semaphore(16)

        async def make(number: int) -> None:
            async with made:
                await ask(session, "POST", PATH, config_map(f"page-{number}", value="1"))

        await asyncio.gather(*(make(number) for number in range(objects)))
    for number in range(rounds):
        limit = str(max(7, objects // (5 + 5 * number)))
        _, answer = await ask(session, "GET", PATH, limit=limit)
        revision, items, pages = revision_of(answer), answer["items"], 1
        while token := answer["metadata"].get("continue"):
            status, answer = await ask(session, "GET", PATH, **{"limit": limit, "continue": token})
            assert status == 200, answer
            found.phantoms += revision_of(answer) != revision
            items += answer["items"]
            pages += 1
        query = {"resourceVersion": str(revision), "resourceVersionMatch": "Exact"}
        status, then = await ask(session, "GET", PATH, **query)
        assert status == 200, then
        names = [
            {each["metadata"]["name"]: each for each in part} for part in (items, then["items"])
        ]
        found.phantoms += sum(
            names[0].get(name) != names[1].get(name) for name in names[0].keys() | names[1].keys()
        )
        found.phantoms += len(items) - len(names[0])
        found.pages += pages
    return found

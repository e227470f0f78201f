"""What a client sees of the API while the cluster is at work: the time of every verb.

A few requests at a time, one of each kind after another; the load is what else goes on.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from tests.tasks import running

from bench.scale.cluster import Listed
from bench.scale.load import pod_body
from navarch.client.client import Client

NAMESPACE = "probes"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
AT_ONCE = 2
PAUSE = 0.01
PAGE = 500
NOW = b'{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}'
MERGE = "application/merge-patch+json"


class Probes:
    """Seconds by verb."""

    def __init__(self, client: Client, listed: str) -> None:
        self._client = client
        self._listed = f"/api/v1/namespaces/{listed}/pods"
        self._numbers = itertools.count()
        self._sent: dict[tuple[str, str], float] = {}
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Measure as long as the block lasts."""
        page = await self._client.request("GET", PODS, query={"limit": "1"})
        version = msgspec.json.decode(page)["metadata"]["resourceVersion"]
        loops = [self._follow(version), self._list_all(), self._list_namespace()]
        loops += [self._objects() for _ in range(AT_ONCE)]
        try:
            async with running(*loops):
                yield
        finally:
            await self._client.request("DELETE", PODS, body=NOW)

    async def _timed(self, verb: str, method: str, path: str, **more: Any) -> bytes:
        began = time.perf_counter()
        answer = await self._client.request(method, path, **more)
        self.seconds[verb].append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE)
        return answer

    async def _objects(self) -> None:
        """The life of one pod after another."""
        gated: dict[str, object] = {"schedulingGates": [{"name": "bench.example/never"}]}
        while True:
            name = f"probe-{next(self._numbers)}"
            path = f"{PODS}/{name}"
            self._sent["ADDED", name] = time.perf_counter()
            await self._timed("CREATE", "POST", PODS, body=pod_body(name, gated))
            await self._timed("GET", "GET", path)
            patch = b'{"metadata":{"annotations":{"bench.example/step":"patched"}}}'
            made = await self._timed("PATCH", "PATCH", path, body=patch, content_type=MERGE)
            obj = msgspec.json.decode(made)
            obj["metadata"]["annotations"]["bench.example/step"] = "updated"
            await self._timed("UPDATE", "PUT", path, body=msgspec.json.encode(obj))
            self._sent["DELETED", name] = time.perf_counter()
            await self._timed("DELETE", "DELETE", path, body=NOW)

    async def _list_namespace(self) -> None:
        while True:
            await self._timed("LIST namespace", "GET", self._listed)
            await asyncio.sleep(20 * PAUSE)

    async def _list_all(self) -> None:
        """Page after page of all pods, again and again."""
        token = ""
        while True:
            query = {"limit": str(PAGE), **({"continue": token} if token else {})}
            page = await self._timed(f"LIST {PAGE} of all", "GET", "/api/v1/pods", query=query)
            token = msgspec.json.decode(page, type=Listed).metadata.continue_
            await asyncio.sleep(10 * PAUSE)

    async def _follow(self, version: str) -> None:
        """From the moment that a write is sent until a watcher hears of it."""
        query = {"watch": "true", "resourceVersion": version}
        async with self._client.stream("GET", PODS, query=query) as response:
            while line := await response.content.readline():
                now = time.perf_counter()
                event = msgspec.json.decode(line)
                key = event["type"], event["object"]["metadata"]["name"]
                sent = self._sent.pop(key, None)
                if sent is not None:
                    self.seconds["WATCH event"].append(now - sent)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

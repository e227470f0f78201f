"""Asks kubelets what their containers use, when somebody wants to know and not otherwise.

An idle cluster pays nothing for statistics that nobody reads. Whoever asks repeatedly (an
autoscaler does so every 15 seconds) sees windows of that length; whoever asks for the first time
waits a second for the second sample, and gets a true answer rather than none. Only the nodes that
an answer is about are asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from multidict import CIMultiDict

from navarch.api.errors import ApiError
from navarch.apiserver.connect.forward import Forwarder
from navarch.apiserver.connect.nodes import Kubelets
from navarch.apiserver.http.answer import read_answer
from navarch.apiserver.usage.samples import NODE, Key, Reading, Usage, fold, parse, usage_of

FRESH_SECONDS = 10.0
"""So long an answer stands, also the one that a node does not answer."""
QUICK_SECONDS = 1.0
"""Between the first two samples, and before a node is asked again for what is new on it."""
LOOK_SECONDS = 5.0
AT_ONCE = 48
MAX_BYTES = 16 * 1024 * 1024
FORGET_SECONDS = 120.0
"""After so long without a question all samples are dropped: they would be too old for an answer."""

PodName = tuple[str, str]
Object = dict[str, Any]

log = logging.getLogger(__name__)


class _Node:
    """What is known of one node. `at` is the time of the last look on the loop's clock."""

    __slots__ = ("at", "is_good", "lock", "pods", "readings")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.at = -FORGET_SECONDS
        self.is_good = True
        self.readings: dict[Key, Reading] = {}
        self.pods: frozenset[PodName] = frozenset()

    def is_unpaired(self, wanted: Collection[PodName]) -> bool:
        """Whether a second sample would tell more."""
        return any(
            (key == NODE or key[:2] in wanted) and usage_of(reading) is None
            for key, reading in self.readings.items()
        )


class UsageScraper:
    """Keeps the samples of the nodes that are asked about."""

    def __init__(self, kubelets: Kubelets, forwarder: Forwarder) -> None:
        self._kubelets = kubelets
        self._forwarder = forwarder
        self._nodes: dict[str, _Node] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._forgetting: asyncio.TimerHandle | None = None

    async def usages(
        self, wanted: Mapping[str, Collection[PodName]]
    ) -> dict[str, dict[Key, Usage | None]]:
        """What these nodes and all that runs on them use, by node; of nodes that do not answer,
        nothing. `wanted` names for each node the pods that the answer is about. None stands for
        what cannot be told yet."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        loop = asyncio.get_running_loop()
        self._forgetting = loop.call_later(FORGET_SECONDS, self._nodes.clear)
        await asyncio.gather(*(self._refresh(name, pods) for name, pods in wanted.items()))
        return {
            name: {key: usage_of(each) for key, each in self._nodes[name].readings.items()}
            for name in wanted
            if name in self._nodes
        }

    def stop(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()

    async def _refresh(self, name: str, wanted: Collection[PodName]) -> None:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = _Node()
        loop = asyncio.get_running_loop()
        async with node.lock:
            age = loop.time() - node.at
            has_news = age >= QUICK_SECONDS and node.is_good and not node.pods.issuperset(wanted)
            if age >= FRESH_SECONDS or has_news:
                await self._look(name, node)
            if node.is_unpaired(wanted):
                await asyncio.sleep(node.at + QUICK_SECONDS - loop.time())
                await self._look(name, node)

    async def _look(self, name: str, node: _Node) -> None:
        """Take a sample of everything on a node."""
        try:
            async with self._gate, asyncio.timeout(LOOK_SECONDS):
                text = await self._fetch(name)
            points = parse(text, datetime.now(UTC).timestamp())
        except (ApiError, TimeoutError) as error:
            log.info("usage of node %s: %s", name, str(error) or "no answer in time")
            points = {}
        node.at = asyncio.get_running_loop().time()
        node.is_good = bool(points)
        node.readings = fold(node.readings, points)
        node.pods = frozenset(key[:2] for key in points)

    async def _fetch(self, name: str) -> str:
        """The kubelet's exposition. Raises ApiError."""
        import aiohttp

        backend = self._kubelets.backend(name)
        headers = CIMultiDict({"Accept": "text/plain"})
        answer = await self._forwarder.request(backend, "GET", "/metrics/resource", headers, None)
        try:
            body = await read_answer(answer.content, MAX_BYTES)
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError(502, "", f"the answer broke off: {error}") from error
        finally:
            answer.close()
        if answer.status != 200:
            raise ApiError(502, "", f"/metrics/resource answered {answer.status}")
        return body.decode("utf-8", "replace")

"""An API server process is killed in the middle of its work, again and again.

Every write that was acknowledged is there after the restart, with the content it was acknowledged
with; a write whose answer was lost has happened once or not at all; a watch that goes on from the
last revision it has seen misses nothing and sees nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.ports import free_port

from navarch.cluster import pki
from navarch.cluster.composition import apiserver_options
from navarch.cluster.profile import Paths, Profile

Object = dict[str, Any]

KILLS = 10
WRITERS = 8
URL = "/api/v1/namespaces/default/configmaps"
SEED = 7


class Process:
    """An API server in a process of its own, over one database, with the cluster's certificates."""

    def __init__(self, directory: Path) -> None:
        profile = Profile("crash", nodes=0, api_port=free_port())
        paths = Paths(directory / "crash")
        paths.create()
        pki.ensure(profile, paths)
        self.url = profile.server
        self.log = directory / "log"
        self._config = directory / "apiserver.json"
        options = apiserver_options(profile, paths)
        self._config.write_text(json.dumps({"components": {"apiserver": options}}))
        self.tls = ssl.create_default_context(cafile=paths.pki / "ca.crt")
        self.tls.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        argv = [sys.executable, "-m", "navarch.cluster.daemon", str(self._config)]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*argv, stderr=log)

    async def kill(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    def session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=self.tls, limit=0)
        return aiohttp.ClientSession(self.url, connector=connector)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    process = Process(tmp_path)
    await process.start()
    yield process
    await process.kill()


async def ready(session: aiohttp.ClientSession) -> None:
    """Wait until the server says that it is ready."""
    async with asyncio.timeout(120):
        while True:
            try:
                async with session.get("/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.01)


@dataclass
class Ledger:
    """What a writer knows of its objects. Each name belongs to one writer."""

    known: dict[str, Object | None] = field(default_factory=dict)
    """By name: as it was acknowledged last; None when it was deleted."""
    doubtful: dict[str, Object | None] = field(default_factory=dict)
    """Writes whose answer never came: the data they would have led to, None for a deletion."""
    acknowledged: list[tuple[int, str, str]] = field(default_factory=list)
    """Revision, type and name of every acknowledged write but deletions, which tell none."""


async def write_until_killed(
    session: aiohttp.ClientSession, ledger: Ledger, writer: int, chance: random.Random
) -> None:
    count = 0
    while True:
        count += 1
        name = f"w{writer}-{chance.randrange(6)}"
        old = ledger.known.get(name)
        data = {"value": f"{count}-{chance.random()}", "pad": "x" * chance.choice([0, 10, 5000])}
        method, path, event = "POST", URL, "ADDED"
        body: Object = {"metadata": {"name": name}, "data": data}
        wanted: Object | None = data
        if old is not None:
            path = f"{URL}/{name}"
            if chance.random() < 0.2:
                method, body, event, wanted = "DELETE", {}, "DELETED", None
            else:
                method, body, event = "PUT", {**old, "data": data}, "MODIFIED"
        ledger.doubtful[name] = wanted
        try:
            async with session.request(method, path, json=body) as response:
                answer = await response.json()
        except aiohttp.ClientError:
            return
        assert response.status in (200, 201), answer
        del ledger.doubtful[name]
        if event == "DELETED":
            ledger.known[name] = None
            continue
        ledger.known[name] = answer
        revision = int(answer["metadata"]["resourceVersion"])
        ledger.acknowledged.append((revision, event, name))


@dataclass
class Watcher:
    """A client that follows the objects and goes on where it was after every break."""

    revision: int
    events: list[tuple[int, str, str, Object | None]] = field(default_factory=list)

    async def follow(self, session: aiohttp.ClientSession) -> None:
        while True:
            query = f"?watch=1&resourceVersion={self.revision}"
            try:
                async with session.get(URL + query) as response:
                    async for line in response.content:
                        self.take(json.loads(line))
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)

    def take(self, event: Object) -> None:
        assert event["type"] in ("ADDED", "MODIFIED", "DELETED"), event
        metadata = event["object"]["metadata"]
        revision = int(metadata["resourceVersion"])
        assert revision > self.revision, "an event came twice, or out of order"
        self.revision = revision
        self.events.append((revision, event["type"], metadata["name"], event["object"].get("data")))

    def check(self, ledgers: list[Ledger], final: dict[str, Object]) -> None:
        """Every acknowledged write was told, and what was told leads to the final state."""
        told = {(revision, kind, name) for revision, kind, name, _ in self.events}
        for ledger in ledgers:
            assert told.issuperset(ledger.acknowledged)
        state: dict[str, Object | None] = {}
        for _, kind, name, data in self.events:
            assert (kind == "ADDED") is (name not in state), "an event is missing"
            if kind == "DELETED":
                del state[name]
            else:
                state[name] = data
        assert state == {name: obj.get("data") for name, obj in final.items()}


async def settle(session: aiohttp.ClientSession, ledgers: list[Ledger]) -> dict[str, Object]:
    """Compare the state after a restart with what is known, and take over what was doubtful."""
    async with session.get(URL) as response:
        items = {each["metadata"]["name"]: each for each in (await response.json())["items"]}
    found = {name: obj for name, obj in items.items() if name.startswith("w")}
    for ledger in ledgers:
        for name in ledger.known.keys() | ledger.doubtful.keys():
            known, actual = ledger.known.get(name), found.get(name)
            if name in ledger.doubtful:
                wanted = ledger.doubtful.pop(name)
                data = actual["data"] if actual else None
                assert data in (wanted, known["data"] if known else None)
            else:
                assert (known is None) is (actual is None)
            if actual is not None and known is not None and actual["data"] == known["data"]:
                assert actual["metadata"] == known["metadata"]
            whole = {**actual, "kind": "ConfigMap", "apiVersion": "v1"} if actual else None
            ledger.known[name] = whole
    assert found.keys() <= {name for ledger in ledgers for name in ledger.known}
    return found


async def more_acknowledged(ledgers: list[Ledger], number: int) -> None:
    wanted = sum(len(ledger.acknowledged) for ledger in ledgers) + number
    async with asyncio.timeout(60):
        while sum(len(ledger.acknowledged) for ledger in ledgers) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.003)


@pytest.mark.timeout(600)
async def test_acknowledged_writes_survive_kills(process: Process) -> None:
    chance = random.Random(SEED)
    ledgers = [Ledger() for _ in range(WRITERS)]
    async with process.session() as session:
        await ready(session)
        async with session.get(URL) as response:
            start = int((await response.json())["metadata"]["resourceVersion"])
        watcher = Watcher(start)
        following = asyncio.create_task(watcher.follow(session))
        for _ in range(KILLS):
            writers = [
                asyncio.create_task(write_until_killed(session, ledger, number, chance))
                for number, ledger in enumerate(ledgers)
            ]
            await more_acknowledged(ledgers, chance.randrange(20, 300))
            await process.kill()
            await asyncio.gather(*writers)
            await process.start()
            await ready(session)
            final = await settle(session, ledgers)
        async with session.post(URL, json={"metadata": {"name": "last"}, "data": {}}) as response:
            final["last"] = await response.json()
        newest = int(final["last"]["metadata"]["resourceVersion"])
        async with asyncio.timeout(60):
            while watcher.revision < newest and not following.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        following.cancel()
        [ended] = await asyncio.gather(following, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended
    watcher.check(ledgers, final)
    assert b"Traceback" not in process.log.read_bytes()

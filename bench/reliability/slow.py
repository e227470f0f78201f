"""Watchers that do not read, among many that do: row 11.

Each of the stalled has a connection with a small window and never reads from it. The server must
neither wait for them nor gather without bounds what they left unread: it ends their watches.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from bench.reliability.process import Process
from bench.reliability.serving import PATH, ask, config_map

WINDOW = 16 * 1024
BIG = 500_000
SMALL_WRITES = 200
SECONDS = 90.0
GAUGE = b'apiserver_longrunning_requests{verb="watches"} '


@dataclass(slots=True)
class Crowd:
    """`before` and `during` are what small writes took, without and with the stalled watchers."""

    told: int = 0
    missing: int = 0
    not_ended: int = 0
    grown_mb: float = 0.0
    before: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)]


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def until(is_so: Callable[[], Awaitable[bool]]) -> bool:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if await is_so():
            return True
        await asyncio.sleep(0.1)
    return False


class Room:
    """A server, those who read its small objects, and those who do not read its big ones."""

    def __init__(self, process: Process, session: aiohttp.ClientSession, readers: int) -> None:
        self._process = process
        self._session = session
        self._seen = [0] * readers
        self._written = 0

    async def read(self, at: int) -> None:
        query = {"watch": "1", "labelSelector": "size=small", "resourceVersion": "0"}
        async with self._session.get(PATH, params=query) as response:
            async for _ in response.content:
                self._seen[at] += 1

    async def watches(self) -> int:
        async with self._session.get("/metrics") as response:
            lines = (await response.read()).splitlines()
        return sum(int(float(line[len(GAUGE) :])) for line in lines if line.startswith(GAUGE))

    def stall(self) -> socket.socket:
        """Begin a watch of everything, read how its answer begins, and nothing more."""
        address = urlsplit(self._process.url)
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        plain.connect((address.hostname, address.port))
        secure = self._process.tls.wrap_socket(plain, server_hostname=address.hostname)
        request = f"GET {PATH}?watch=1 HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n"
        secure.sendall(request.encode())
        secure.recv(1000)
        return secure

    async def write_small(self, number: int) -> list[float]:
        seconds = []
        for at in range(number):
            body = config_map(f"small-{self._written}", value=str(at))
            body["metadata"]["labels"] = {"size": "small"}
            began = time.perf_counter()
            status, answer = await ask(self._session, "POST", PATH, body)
            seconds.append(time.perf_counter() - began)
            assert status == 201, answer
            self._written += 1
        return seconds

    async def write_big(self, megabytes: int) -> None:
        """Over and over into one object, so that only watches can gather it."""
        status, _ = await ask(self._session, "POST", PATH, config_map("big"))
        assert status == 201
        for at in range(megabytes * 1_000_000 // BIG):
            body = msgspec.json.encode(config_map("big", value=str(at % 10) * BIG, at=str(at)))
            headers = {"Content-Type": "application/json"}
            path = f"{PATH}/big"
            async with self._session.put(path, data=body, headers=headers) as response:
                assert response.status == 200, await response.text()

    async def all_told(self) -> bool:
        return min(self._seen) >= self._written

    def judge(self, crowd: Crowd) -> None:
        crowd.told = sum(self._seen)
        crowd.missing = sum(abs(self._written - each) for each in self._seen)


async def gather_crowd(process: Process, watchers: int, stalled: int, megabytes: int) -> Crowd:
    crowd, readers = Crowd(), watchers - stalled
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(process.session())
        room = Room(process, session, readers)
        tasks = [asyncio.create_task(room.read(at)) for at in range(readers)]

        async def end() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        stack.push_async_callback(end)
        own = await _opened(room, readers)
        crowd.before = await room.write_small(SMALL_WRITES)
        await until(room.all_told)
        for _ in range(stalled):
            stack.callback((await asyncio.to_thread(room.stall)).close)
        assert await room.watches() >= own + stalled
        memory = resident_mb(process.pid)
        crowd.during, _ = await asyncio.gather(
            room.write_small(SMALL_WRITES), room.write_big(megabytes)
        )
        crowd.grown_mb = resident_mb(process.pid) - memory
        await until(room.all_told)

        async def is_ended() -> bool:
            return await room.watches() <= own

        if not await until(is_ended):
            crowd.not_ended = await room.watches() - own
        room.judge(crowd)
    return crowd


async def _opened(room: Room, readers: int) -> int:
    async def is_full() -> bool:
        return await room.watches() >= readers

    assert await until(is_full), "not all watches could be opened"
    return await room.watches()

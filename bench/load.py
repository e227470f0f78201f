"""A load generator: requests over many connections, as fast as the server answers.

Plain HTTP/1.1 over asyncio protocols with ready-made request bytes, because a full client would be
measured along with the server on a small machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from navarch.client.config import ClientConfig, make_ssl_context


@dataclass(slots=True)
class Result:
    """What came of a load: answers by status code, latencies in seconds, bytes received."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    received: int = 0
    cpu: float = 0.0
    """Seconds of the server's CPU, where it can be looked at."""

    @property
    def cpu_each(self) -> float:
        return self.cpu / max(1, sum(self.statuses.values()))

    @property
    def rate(self) -> float:
        """Successful requests a second."""
        good = sum(count for status, count in self.statuses.items() if status < 300)
        return good / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server and how to be let in."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    authorization: str

    @classmethod
    def of(cls, config: ClientConfig) -> Target:
        parts = urlsplit(config.server)
        tls = make_ssl_context(config) if parts.scheme == "https" else None
        bearer = f"Authorization: Bearer {config.token}\r\n" if config.token else ""
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname or "127.0.0.1", port, tls, bearer)

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A request as bytes."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{self.authorization}"
            f"Accept: application/json\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class _Connection(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last is complete."""

    def __init__(self, next_request: Callable[[], bytes | None], result: Result) -> None:
        self._next = next_request
        self._result = result
        self._buffer = bytearray()
        self._needed = -1
        self._chunked = False
        self._status = 0
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        request = self._next()
        if request is None:
            if not self.done.done():
                self.done.set_result(None)
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._result.received += len(data)
        if self._needed < 0 and not self._chunked:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            self._status = int(head[9:12])
            self._chunked = b"transfer-encoding: chunked" in head
            position = head.find(b"content-length:")
            length = int(head[position + 15 :].split(b"\r\n", 1)[0]) if position >= 0 else 0
            body = self._buffer[end + 4 :]
            self._needed = length - len(body)
            self._buffer = bytearray(body[-5:])
        else:
            self._needed -= len(data)
            self._buffer = (self._buffer + data[-5:])[-5:]
        if self._buffer.endswith(b"0\r\n\r\n") if self._chunked else self._needed <= 0:
            self._result.latencies.append(time.perf_counter() - self._sent)
            self._result.statuses[self._status] += 1
            self._buffer.clear()
            self._needed, self._chunked = -1, False
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server closed"))


async def run(
    target: Target, connections: int, make: Callable[[int], bytes], *, count: int, seconds: float
) -> Result:
    """Send `make(0)`, `make(1)`, ... until `count` requests or the time is up."""
    result = Result()
    sent = 0
    deadline = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()

    def next_request() -> bytes | None:
        nonlocal sent
        if sent >= count or time.perf_counter() > deadline:
            return None
        sent += 1
        return make(sent - 1)

    started = time.perf_counter()
    opened = [
        await loop.create_connection(
            lambda: _Connection(next_request, result), target.host, target.port, ssl=target.tls
        )
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in opened))
    result.seconds = time.perf_counter() - started
    return result


class Watchers:
    """What many watches have received. Every event ends with a line feed; those that belong to
    the chunks follow a carriage return."""

    def __init__(self) -> None:
        self.events = 0
        self._changed = asyncio.Event()

    def received(self, events: int) -> None:
        self.events += events
        self._changed.set()

    async def wait_for(self, events: int, seconds: float = 20.0) -> None:
        try:
            async with asyncio.timeout(seconds):
                while self.events < events:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"{self.events} of {events} events came") from None

    async def wait_quiet(self, seconds: float = 1.0) -> None:
        """Until what there was at the start has come to all of them."""
        seen = -1
        while seen != self.events:
            seen = self.events
            await asyncio.sleep(seconds)


class _Watch(asyncio.Protocol):
    def __init__(self, request: bytes, watchers: Watchers) -> None:
        self._request = request
        self._watchers = watchers
        self._last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self._last and not data.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"no watch: {data[:300]!r}")
        is_split = self._last == b"\r" and data.startswith(b"\n")
        self._last = data[-1:]
        self._watchers.received(data.count(b"\n") - data.count(b"\r\n") - is_split)


@contextlib.asynccontextmanager
async def watching(target: Target, number: int, request: bytes) -> AsyncIterator[Watchers]:
    """Many watches, each over a connection of its own."""
    loop = asyncio.get_running_loop()
    watchers = Watchers()
    transports = []
    try:
        for _ in range(number):
            transport, _ = await loop.create_connection(
                lambda: _Watch(request, watchers), target.host, target.port, ssl=target.tls
            )
            transports.append(transport)
        yield watchers
    finally:
        for transport in transports:
            transport.abort()

"""Connections in memory, and a client whose network and whose process may fail.

Requests pass through the server's real HTTP stack. Around each there is latency, and as often as
the weather says one goes wrong: the server is too busy or fails, the connection breaks before the
request arrives or after it was carried out (so that nobody knows). Watches lag, each for itself,
break, and tell again what they told when they are resumed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from navarch.api.errors import ApiError
from navarch.apiserver.http.connection import FrontServer
from navarch.client import Client, ClientConfig
from navarch.client.client import ApiConnectionError, _error_of

from .virtual import LoopClock


class _Transport(asyncio.Transport):
    """One end of a connection; what is written arrives at the other with the next turn."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.peer: _Transport | None = None
        self._is_closing = False

    def write(self, data: Any) -> None:
        if not self._is_closing and self.peer is not None:
            asyncio.get_running_loop().call_soon(self.peer._receive, bytes(data))

    def _receive(self, data: bytes) -> None:
        if not self._is_closing:
            self.protocol.data_received(data)

    def close(self) -> None:
        self._end()
        if self.peer is not None:
            asyncio.get_running_loop().call_soon(self.peer._end)

    abort = close

    def _end(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self._is_closing

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Reader(asyncio.Protocol):
    """The client's end: an answer of known length or of chunks."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._has_ended = False
        self._changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = True
        self._changed.set()

    async def _until(self, mark: bytes) -> bytes:
        while (end := self._bytes.find(mark)) < 0:
            await self._more()
        return self._take(end + len(mark))[: -len(mark)]

    async def exactly(self, size: int) -> bytes:
        while len(self._bytes) < size:
            await self._more()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken

    async def _more(self) -> None:
        if self._has_ended:
            raise ConnectionResetError("the connection broke")
        self._changed.clear()
        await self._changed.wait()

    async def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def body(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.exactly(int(headers["content-length"]))
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        while size := int(await self._until(b"\r\n"), 16):
            yield await self.exactly(size)
            await self.exactly(2)


@dataclass(slots=True)
class Weather:
    """How things go between the components and the server; all chances are for one request."""

    rng: random.Random
    latency: float = 0.02
    failures: float = 0.0
    """Of a request to be refused, or lost on the way there or back."""
    cuts: float = 0.0
    """Of a watch to break, for each piece that it tells."""
    lag: float = 0.0
    """The longest that a watch may be behind."""
    slow: str = ""
    """Watches of this path are behind by all of that, others not at all."""
    repeats: float = 0.0
    """Of a watch that is resumed to tell again what it told last."""

    def clear_up(self) -> None:
        self.failures = self.cuts = self.lag = self.repeats = 0.0


@dataclass(slots=True)
class Request:
    """What a component asked for."""

    at: float
    who: str
    method: str
    path: str
    status: int = 0
    """What was answered, if anything was."""

    @property
    def is_write(self) -> bool:
        return self.method not in ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Wire:
    """What all clients of a world share."""

    front: Callable[[], FrontServer]
    weather: Weather
    requests: list[Request]


class WireClient(Client):
    """A component's client. `die_after(n)` kills the process at its n-th request from now."""

    def __init__(self, wire: Wire, who: str, is_spared: bool = False) -> None:
        config = ClientConfig("http://127.0.0.1:6443", user_agent=who)
        super().__init__(config, clock=LoopClock())
        self.who = who
        self.died = asyncio.Event()
        self._wire = wire
        self._is_spared = is_spared
        """Nothing goes wrong for this one: it is the user."""
        self._left = -1
        self._open: set[_Transport] = set()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.die()

    def die(self) -> None:
        self.died.set()
        for transport in [*self._open]:
            transport.close()

    def die_after(self, requests: int) -> None:
        self._left = requests

    def cut(self) -> None:
        """All connections break."""
        for transport in [*self._open]:
            transport.close()

    async def _request_once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
    ) -> bytes:
        if self.died.is_set():
            raise ApiConnectionError("the process is dead")
        weather = self._wire.weather
        request = Request(self.clock.monotonic(), self.who, method, path)
        self._wire.requests.append(request)
        fault = self._fault(method)
        if fault == "before" or self._is_last(before=True):
            raise ApiConnectionError("the connection broke before the request")
        if isinstance(fault, ApiError):
            raise fault
        await asyncio.sleep(weather.latency * weather.rng.random())
        async with self._connected() as (transport, reader):
            transport.write(self._head(method, path, query, body or b"", content_type))
            try:
                status, headers = await reader.head()
                answer = await reader.body(headers)
            except ConnectionResetError as error:
                raise ApiConnectionError(str(error)) from error
        request.status = status
        if fault == "after" or self._is_last(before=False):
            raise ApiConnectionError("the connection broke after the request")
        await asyncio.sleep(weather.latency * weather.rng.random())
        if self.died.is_set():
            raise ApiConnectionError("the process is dead")
        if status >= 300:
            raise _error_of(status, answer, "", headers.get("retry-after", ""))
        return answer

    def _is_last(self, before: bool) -> bool:
        """Whether the process dies now; a request in two has been carried out by then."""
        if self._left < 0:
            return False
        if not before:
            return self.died.is_set()
        self._left -= 1
        if self._left < 0:
            self.die()
        return self.died.is_set() and self._wire.weather.rng.random() < 0.5

    def _fault(self, method: str) -> ApiError | str:
        weather = self._wire.weather
        if self._is_spared or weather.rng.random() >= weather.failures:
            return ""
        busy = ApiError(429, "TooManyRequests", "the server is too busy")
        busy.headers["Retry-After"] = "1"
        faults: list[ApiError | str] = [
            "before",
            busy,
            ApiError(500, "InternalError", "something is wrong"),
            ApiError(504, "Timeout", "it took too long"),
        ]
        if method != "GET":
            # Weighted: this is the case that programs forget.
            faults += ["after", "after", "after"]
        if method in ("PUT", "PATCH"):
            faults.append(ApiError(409, "Conflict", "the object has been modified"))
        return weather.rng.choice(faults)

    def _head(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes,
        content_type: str,
        accept: str = "application/json",
    ) -> bytes:
        target = f"{path}?{urlencode(query)}" if query else path
        return (
            f"{method} {target} HTTP/1.1\r\nHost: server\r\nAccept: {accept}\r\n"
            f"User-Agent: {self.who}\r\nTest-User: {self.who}\r\nTest-Groups: system:masters\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode("latin-1") + body

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[_Transport, _Reader]]:
        reader, server = _Reader(), self._wire.front()()
        ours, theirs = _Transport(reader), _Transport(server)
        ours.peer, theirs.peer = theirs, ours
        server.connection_made(theirs)
        self._open.add(ours)
        try:
            yield ours, reader
        finally:
            self._open.discard(ours)
            ours.close()

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = "*/*",
    ) -> AsyncIterator[Any]:
        if self.died.is_set():
            raise ApiConnectionError("the process is dead")
        weather = self._wire.weather
        version = (query or {}).get("resourceVersion", "")
        if query and version and weather.rng.random() < weather.repeats:
            earlier = max(1, int(version) - weather.rng.randint(1, 40))
            query = {**query, "resourceVersion": str(earlier)}
        async with self._connected() as (transport, reader):
            transport.write(self._head(method, path, query, b"", "application/json", accept))
            try:
                status, headers = await reader.head()
                if status >= 300:
                    answer = await reader.body(headers)
                    raise _error_of(status, answer, "", headers.get("retry-after", ""))
                lag = weather.lag * weather.rng.random() ** 2
                if weather.slow:
                    lag = weather.lag * (path == weather.slow)
                yield _Stream(reader, self, headers, 0.0 if self._is_spared else lag)
            except ConnectionResetError as error:
                raise ApiConnectionError(str(error)) from error


class _Stream:
    """Looks like aiohttp's response, as far as watches need it."""

    def __init__(
        self, reader: _Reader, client: WireClient, headers: Mapping[str, str], lag: float
    ) -> None:
        self.content = self
        self._lag = lag
        self.headers = headers
        self._reader = reader
        self._client = client

    async def read(self) -> bytes:
        return await self._reader.body(self.headers)

    async def iter_any(self) -> AsyncGenerator[bytes, None]:
        weather = self._client._wire.weather
        spared = self._client._is_spared
        arrived: asyncio.Queue[tuple[float, bytes | Exception | None]] = asyncio.Queue()
        now = self._client.clock.monotonic

        async def receive() -> None:
            try:
                async with aclosing(self._reader.chunks()) as chunks:
                    async for chunk in chunks:
                        arrived.put_nowait((now(), chunk))
                arrived.put_nowait((now(), None))
            except ConnectionResetError as error:
                arrived.put_nowait((now(), error))

        task = asyncio.create_task(receive())
        try:
            while True:
                came, chunk = await arrived.get()
                await asyncio.sleep(max(0.0, came + min(self._lag, weather.lag) - now()))
                if chunk is None:
                    return
                if isinstance(chunk, Exception):
                    raise chunk
                if not spared and weather.rng.random() < weather.cuts:
                    raise ConnectionResetError("the connection broke")
                yield chunk
        finally:
            task.cancel()

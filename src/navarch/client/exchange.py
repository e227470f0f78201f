"""Short exchanges over kept connections: a request out, an answer in, nothing around it.

A component at work makes thousands of small writes: bindings, statuses, events. A general HTTP
client spends several times as long on each as the kernel and TLS do together. This one knows
HTTP/1.1 as far as an API server speaks it (RFC 9112: a length, chunks, or until the end) and
nothing else: no redirects, no cookies, no compression, one request at a time per connection.
Whatever is streamed goes another way.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from navarch.client.clock import Clock

IDLE_SECONDS = 15.0
"""A connection that was idle for longer is not used again: the server may be about to close it."""
PLENTY = 96
"""So many connections serve a thousand short requests a second."""
PATIENCE_SECONDS = 0.1
"""Where there are plenty, so long one waits for a connection that somebody is done with: a
handshake costs both sides more than several requests, and in a flood it comes at the worst time."""
HEAD_LIMIT = 64 * 1024
NO_BODY = (204, 304)


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class BrokenExchange(ConnectionError):
    """The connection ended before the answer, or what came was no answer."""


class _Connection(asyncio.Protocol):
    """One connection. `send` the next request when the answer to the last is there."""

    def __init__(self, lost: Callable[[_Connection], None]) -> None:
        self.idle_since = 0.0
        self.is_reusable = True
        self._lost = lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._reset()

    def _reset(self) -> None:
        self._status = 0
        self._headers: dict[str, str] = {}
        self._left: int | None = None
        """Bytes of the body that are to come; None for chunks or until the end."""
        self._is_chunked = False
        self._body = bytearray()

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiter

    def close(self) -> None:
        self.is_reusable = False
        if self._transport is None:
            return
        if self._waiter is None:
            self._transport.close()
        else:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._waiter is None:
            self.close()  # nobody asked
            return
        try:
            self._read()
        except ValueError as error:
            self._finish(BrokenExchange(f"not an HTTP answer: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_reusable = False
        is_whole = self._status and self._left is None and not self._is_chunked
        if is_whole and exc is None:
            self._finish(None)
        else:
            self._finish(exc or BrokenExchange("Server disconnected"))
        self._lost(self)

    def _read(self) -> None:
        while not self._status:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_LIMIT:
                    raise ValueError("too long a head")
                return
            self._read_head(bytes(self._buffer[:end]).decode("latin-1"))
            del self._buffer[: end + 4]
        if self._is_chunked:
            self._read_chunks()
            return
        self._body += self._buffer
        self._buffer.clear()
        if self._left is not None and len(self._body) >= self._left:
            if len(self._body) > self._left:
                raise ValueError("more than its length")
            self._finish(None)

    def _read_head(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        version, status, *_ = first.split(" ", 2)
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise ValueError(first[:80])
        if status.startswith("1"):
            return  # an interim answer
        self._status = int(status)
        for line in lines:
            name, separator, value = line.partition(":")
            if separator:
                self._headers[name.lower()] = value.strip()
        self._is_chunked = "chunked" in self._headers.get("transfer-encoding", "").lower()
        if self._status in NO_BODY:
            self._is_chunked, self._left = False, 0
        elif not self._is_chunked and "content-length" in self._headers:
            self._left = int(self._headers["content-length"])
        connection = self._headers.get("connection", "").lower()
        until_end = self._left is None and not self._is_chunked
        if until_end or "close" in connection or version == "HTTP/1.0":
            self.is_reusable = False

    def _read_chunks(self) -> None:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(bytes(self._buffer[:end]).partition(b";")[0], 16)
            after = end + 2 + size
            if len(self._buffer) < after + 2:
                return
            if not size:
                if self._buffer[after : after + 2] != b"\r\n":
                    raise ValueError("trailers")
                del self._buffer[: after + 2]
                self._finish(None)
                return
            self._body += self._buffer[end + 2 : after]
            del self._buffer[: after + 2]

    def _finish(self, error: Exception | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            if error is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(Answer(self._status, self._headers, bytes(self._body)))
        self._reset()


class Exchange:
    """Connections to one server. How many there are at most is for the caller to bound."""

    def __init__(self, server: str, tls_server_name: str, clock: Clock, connect: Any) -> None:
        parts = urlsplit(server)
        self._prefix = parts.path.rstrip("/")
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._netloc = parts.netloc.rpartition("@")[2]
        self._server_name = tls_server_name or self._host
        self._clock = clock
        self._connect = connect
        """Opens a socket to (host, port)."""
        self._idle: list[_Connection] = []
        self._waiting: deque[asyncio.Future[_Connection | None]] = deque()
        self._all: set[_Connection] = set()
        self._opening = 0
        self._tls: ssl.SSLContext | None = None

    def close(self) -> None:
        for connection in [*self._all]:
            connection.close()

    async def __call__(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        tls: ssl.SSLContext | None,
    ) -> Answer:
        """Raises OSError when there is no (whole) answer."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"{method} {self._prefix}{target} HTTP/1.1\r\nHost: {self._netloc}\r\n{lines}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        connection = await self._ready(tls)
        try:
            answer = await connection.send(head.encode("latin-1") + body)
        except BaseException:
            # Its answer may still come; nobody else may take it for theirs.
            connection.close()
            raise
        if connection.is_reusable and tls is self._tls:
            self._release(connection)
        else:
            connection.close()
        return answer

    def _release(self, connection: _Connection) -> None:
        """To whoever has waited for longest, or to those to come."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        connection.idle_since = self._clock.monotonic()
        self._idle.append(connection)

    async def _next_released(self) -> _Connection | None:
        """The next connection that somebody is done with; None when that takes too long."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[_Connection | None] = loop.create_future()
        self._waiting.append(waiter)
        timer = loop.call_later(PATIENCE_SECONDS, _give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and (connection := waiter.result()) is not None:
                self._release(connection)
            raise
        finally:
            timer.cancel()

    async def _ready(self, tls: ssl.SSLContext | None) -> _Connection:
        """The connection used last, or a new one. New credentials are for new connections."""
        if tls is not self._tls:
            self._tls = tls
            for connection in self._idle:
                connection.close()
            self._idle.clear()
        oldest = self._clock.monotonic() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable and connection.idle_since >= oldest:
                return connection
            connection.close()
        if len(self._all) + self._opening >= PLENTY:
            released = await self._next_released()
            if released is not None and released.is_reusable:
                return released
        self._opening += 1
        try:
            sock = await self._connect(self._host, self._port)
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._all.discard),
                sock=sock,
                ssl=tls,
                server_hostname=self._server_name if tls is not None else None,
            )
        finally:
            self._opening -= 1
        self._all.add(made)
        return made


def _give_up(waiter: asyncio.Future[_Connection | None]) -> None:
    if not waiter.done():
        waiter.set_result(None)

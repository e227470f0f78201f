"""Upgraded connections as plain byte streams: take one over from aiohttp, open one, join two.

After `101 Switching Protocols` a connection is no HTTP any more. The API server and the kubelet
pass such bytes on untouched; what they mean is agreed between client and container runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

CHUNK = 64 * 1024
MAX_HEAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Connection:
    """The two halves of a byte stream."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self) -> None:
        self.writer.close()


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What a server answered to an upgrade: its status line and headers as they came, and, where
    the status is 101, the connection to go on with (its reader stands behind the head)."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    connection: Connection

    def header(self, name: str) -> str:
        return next((v for k, v in self.headers if k.lower() == name.lower()), "")


class UpgradeFailed(Exception):
    """The server at the other end did not answer as HTTP does."""


class _TakenOver(asyncio.StreamReaderProtocol):
    """Stands in for aiohttp's protocol and tells it when the connection is lost, so that the
    server's book of open connections stays right."""

    def __init__(self, reader: asyncio.StreamReader, former: asyncio.BaseProtocol) -> None:
        super().__init__(reader)
        self._former = former

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if isinstance(self._former, asyncio.Protocol):
            self._former.connection_lost(exc)


class TakenOverResponse(web.StreamResponse):
    """What a handler returns to aiohttp once it has taken the connection over: nothing is sent."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: object = b"") -> None:
        return None


def take_over(request: web.BaseRequest) -> Connection:
    """Take a request's connection away from aiohttp. Nothing has been answered yet: the caller
    writes the response head itself, and returns `TakenOverResponse()` at its end."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK * 4)
    protocol = _TakenOver(reader, transport.get_protocol())
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


def response_head(status: int, reason: str, headers: list[tuple[str, str]]) -> bytes:
    """A response head as bytes."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def open_upgrade(
    address: tuple[str, int] | tuple[str, int, str],
    method: str,
    target: str,
    headers: Mapping[str, str],
    tls: ssl.SSLContext | None = None,
) -> Upgraded:
    """Connect to `address` (host, port, and the name in the certificate when that is not the host),
    ask for an upgrade and read the answer's head.

    Raises OSError when there is no connection, UpgradeFailed for an answer that is not HTTP."""
    host, port, *names = address
    name = names[0] if names and names[0] and tls is not None else None
    reader, writer = await asyncio.open_connection(
        host, port, ssl=tls, server_hostname=name, limit=MAX_HEAD
    )
    try:
        lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        head = await reader.readuntil(b"\r\n\r\n")
        status_line, *rest = head[:-4].decode("latin-1").split("\r\n")
        version, code, *reason = status_line.split(" ", 2)
        if not version.startswith("HTTP/1."):
            raise ValueError(version)
        pairs = [line.partition(":")[::2] for line in rest]
        parsed = [(name.strip(), value.strip()) for name, value in pairs]
        return Upgraded(int(code), "".join(reason), parsed, Connection(reader, writer))
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.close()
        raise UpgradeFailed(f"no HTTP answer from {host}:{port}") from error
    except BaseException:
        writer.close()
        raise


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, no faster than the other side takes it."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError, RuntimeError, NotImplementedError):
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


async def join(one: Connection, other: Connection) -> None:
    """Pass bytes between two connections until both directions have ended, then close both."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(copy(one.reader, other.writer), name="splice forth")
            group.create_task(copy(other.reader, one.writer), name="splice back")
    finally:
        one.close()
        other.close()

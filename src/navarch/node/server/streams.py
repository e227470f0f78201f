"""exec, attach and port-forward: from the client's protocol to the runtime's streaming server.

The runtime (CRI) serves SPDY/3.1 and the older WebSocket channels itself; those bytes are passed on
untouched. Two things it does not know are translated here: WebSocket channels v5 (with an end for
standard input), and SPDY tunnelled in a WebSocket for port-forward (KEP-4006).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from navarch.api.errors import ApiError
from navarch.api.numbers import natural
from navarch.streaming import splice
from navarch.streaming.channels import PORT_FORWARD_TUNNEL, STREAM_TYPES, V5, Channel, parse_message
from navarch.streaming.spdy import DataReceived, PingReceived, SpdyConnection, SpdyError

SPDY = "SPDY/3.1"
REMOTE_COMMAND_V4 = "v4.channel.k8s.io"
PORT_FORWARD_V1 = "portforward.k8s.io"
MAXIMUM_MESSAGE = 32 << 20
"""Of a client, in bytes. It is held in memory as a whole."""
HOP_HEADERS = ("connection", "upgrade", "sec-websocket-", "x-stream-protocol-version")


def offered_protocols(request: web.BaseRequest) -> list[str]:
    """Sub-protocols that a WebSocket client offers."""
    values = request.headers.getall("Sec-WebSocket-Protocol", [])
    return [name.strip() for value in values for name in value.split(",")]


def require_upgrade(request: web.BaseRequest) -> None:
    """Refuse a request that asks for no upgrade. Raises ApiError 400."""
    tokens = request.headers.get("Connection", "").lower()
    if "upgrade" not in tokens or not request.headers.get("Upgrade"):
        raise ApiError(400, "BadRequest", "Upgrade request required")


def forwarded_ports(request: web.BaseRequest) -> tuple[int, ...]:
    """The ports whose streams are the channels of a WebSocket: two for each, data and errors.
    Raises ApiError 400. Clients of SPDY name the port with each stream."""
    offered = offered_protocols(request)
    if request.headers.get("Upgrade", "").lower() != "websocket" or PORT_FORWARD_TUNNEL in offered:
        return ()
    ports = [each for value in request.query.getall("port", []) for each in value.split(",")]
    if not ports:
        raise ApiError(400, "BadRequest", 'query parameter "port" is required')
    for port in ports:
        if not 0 < (natural(port) or 0) < 65536:
            raise ApiError(400, "BadRequest", f'unable to parse "{port}" as a port')
    return tuple(map(int, ports))


async def serve(
    request: web.BaseRequest, runtime_url: str, channels: frozenset[Channel]
) -> web.StreamResponse:
    """Connect a client's upgraded request with the runtime's stream at `runtime_url`.

    `channels` are those an exec or attach asked for (empty for port-forward)."""
    offered = offered_protocols(request)
    if V5 in offered and channels:
        return await _translate(request, runtime_url, channels)
    if PORT_FORWARD_TUNNEL in offered:
        return await _untunnel(request, runtime_url)
    return await _pass_through(request, runtime_url)


def _address(url: str) -> tuple[tuple[str, int], str]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ApiError(500, "InternalError", f"the runtime streams at an unusable address {url}")
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return (parts.hostname, parts.port or 80), target


async def _open_runtime(url: str, method: str, headers: Mapping[str, str]) -> splice.Upgraded:
    address, target = _address(url)
    try:
        return await splice.open_upgrade(
            address, method, target, {"Host": f"{address[0]}:{address[1]}", **headers}
        )
    except (OSError, splice.UpgradeFailed) as error:
        raise ApiError(
            500, "InternalError", f"error dialing the container runtime: {error}"
        ) from error


async def _open_spdy(url: str, protocol: str) -> splice.Connection:
    upgraded = await _open_runtime(
        url,
        "POST",
        {
            "Connection": "Upgrade",
            "Upgrade": SPDY,
            "Content-Length": "0",
            "X-Stream-Protocol-Version": protocol,
        },
    )
    if upgraded.status != 101:
        upgraded.connection.close()
        raise ApiError(500, "InternalError", f"the runtime answered {upgraded.status}")
    return upgraded.connection


async def _pass_through(request: web.BaseRequest, url: str) -> web.StreamResponse:
    headers = {
        name: value
        for name, value in request.headers.items()
        if name.lower().startswith(HOP_HEADERS)
    }
    upgraded = await _open_runtime(url, request.method, {**headers, "Content-Length": "0"})
    if upgraded.status != 101:
        upgraded.connection.close()
        raise ApiError(
            400 if upgraded.status < 500 else 500,
            "BadRequest" if upgraded.status < 500 else "InternalError",
            f"the runtime refused the upgrade: {upgraded.status} {upgraded.reason}",
        )
    client = splice.take_over(request)
    client.writer.write(splice.response_head(101, upgraded.reason, upgraded.headers))
    await splice.join(client, upgraded.connection)
    return splice.TakenOverResponse()


async def _untunnel(request: web.BaseRequest, url: str) -> web.StreamResponse:
    """Port-forward of current clients: the WebSocket's messages are the SPDY connection's bytes."""
    runtime = await _open_spdy(url, PORT_FORWARD_V1)
    socket = web.WebSocketResponse(
        protocols=(PORT_FORWARD_TUNNEL,), max_msg_size=MAXIMUM_MESSAGE, compress=False
    )
    try:
        await socket.prepare(request)

        async def from_runtime() -> None:
            while data := await runtime.reader.read(splice.CHUNK):
                await socket.send_bytes(data)
            await socket.close()

        async def from_client() -> None:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    runtime.writer.write(message.data)
                    await runtime.writer.drain()
            runtime.close()

        await _until_closed(from_runtime(), from_client())
    finally:
        runtime.close()
    return socket


async def _translate(
    request: web.BaseRequest, url: str, channels: frozenset[Channel]
) -> web.StreamResponse:
    """exec and attach of current clients: WebSocket channels v5 to SPDY streams v4."""
    runtime = await _open_spdy(url, REMOTE_COMMAND_V4)
    socket = web.WebSocketResponse(protocols=(V5,), max_msg_size=MAXIMUM_MESSAGE, compress=False)
    try:
        await socket.prepare(request)
        await _Translation(socket, runtime, channels).run()
    finally:
        runtime.close()
    return socket


class _Translation:
    """One translated session. The runtime's error stream ends the session: it carries the exit
    status, and comes after all output."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        runtime: splice.Connection,
        channels: frozenset[Channel],
    ) -> None:
        self.socket = socket
        self.runtime = runtime
        self.spdy = SpdyConnection()
        ordered = sorted(channels | {Channel.ERROR}, key=lambda c: (c != Channel.ERROR, c))
        self.stream_of = {channel: 2 * i + 1 for i, channel in enumerate(ordered)}
        self.channel_of = {stream: channel for channel, stream in self.stream_of.items()}

    async def run(self) -> None:
        for channel, stream_id in self.stream_of.items():
            headers = {"streamtype": STREAM_TYPES[channel]}
            self.runtime.writer.write(self.spdy.open_stream(stream_id, headers))
        await self.runtime.writer.drain()
        await _until_closed(self.from_runtime(), self.from_client())

    async def from_runtime(self) -> None:
        try:
            while data := await self.runtime.reader.read(splice.CHUNK):
                for event in self.spdy.receive(data):
                    if isinstance(event, DataReceived):
                        await self.on_data(event)
                    elif isinstance(event, PingReceived):
                        self.runtime.writer.write(self.spdy.ping(event.ping_id))
        except SpdyError as error:
            await self.socket.close(code=1011, message=str(error).encode())
            return
        await self.socket.close()

    async def on_data(self, event: DataReceived) -> None:
        channel = self.channel_of.get(event.stream_id)
        if channel is None:
            return
        if event.data:
            await self.socket.send_bytes(bytes((channel,)) + event.data)

    async def from_client(self) -> None:
        writer = self.runtime.writer
        async for message in self.socket:
            # Some clients send text as such (the official Python one): its first character is the
            # channel all the same.
            if message.type is WSMsgType.TEXT:
                data = message.data.encode()
            elif message.type is WSMsgType.BINARY:
                data = message.data
            else:
                continue
            try:
                channel, payload = parse_message(data)
                if channel is Channel.CLOSE:
                    stream = self.stream_of.get(Channel(payload[0]))
                    frame = None if stream is None else self.spdy.data(stream, b"", fin=True)
                else:
                    stream = self.stream_of.get(channel)
                    frame = None if stream is None else self.spdy.data(stream, payload)
            except (ValueError, IndexError):
                await self.socket.close(code=1002, message=b"no such channel")
                break
            if frame is not None:
                writer.write(frame)
                await writer.drain()
        self.runtime.close()


async def _until_closed(*directions: Coroutine[Any, Any, None]) -> None:
    """Run the directions of a session; a connection that breaks ends all of them quietly."""
    tasks = [asyncio.ensure_future(direction) for direction in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # The other side was closed by the one that ended; it has to notice by itself.
        await asyncio.wait(tasks, timeout=5)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, ConnectionError | OSError):
            raise result

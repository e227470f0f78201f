"""Backends that speak TLS and gRPC, and clients of all kinds: HTTP/2, slow ones, large bodies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from tests.cluster.ingress_ground import ADDRESS, HTTP, HTTPS, Ground, marks
from tests.cluster.ingress_ground import ingress_ground as ground
from tests.unit.network.ingresses import ingress, slice_of

__all__ = ["ground"]
pytestmark = marks
BACKEND, PORT = "127.0.7.15", 20281
NAME = "api.example"


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no types
    """Methods of every shape, on bytes, so that no generated code is needed."""

    def service(self, details: Any) -> Any:
        methods: dict[str, Any] = {
            "/t.Echo/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/t.Echo/Many": grpc.unary_stream_rpc_method_handler(self.many),
            "/t.Echo/Talk": grpc.stream_stream_rpc_method_handler(self.talk),
            "/t.Echo/Refuse": grpc.unary_unary_rpc_method_handler(self.refuse),
        }
        return methods.get(details.method)

    async def unary(self, request: bytes, context: Any) -> bytes:
        seen = dict(context.invocation_metadata())
        await context.send_initial_metadata((("x-back", "initial"),))
        context.set_trailing_metadata((("x-trailing", "end"),))
        digest = hashlib.sha256(request).hexdigest()
        return json.dumps({"size": len(request), "digest": digest, "seen": str(seen)}).encode()

    async def many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for each in requests:
            yield b"echo " + each

    async def refuse(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now, \u00e4")
        return b""


@asynccontextmanager
async def grpc_backend(ground: Ground, *, tls: bool) -> AsyncIterator[None]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    if tls:
        chain, key = ground.authority.issue("backend.example")
        pair = [(key.encode(), chain.encode())]
        server.add_secure_port(f"{BACKEND}:{PORT}", grpc.ssl_server_credentials(pair))
    else:
        server.add_insecure_port(f"{BACKEND}:{PORT}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@asynccontextmanager
async def channel(ground: Ground) -> AsyncIterator[grpc.aio.Channel]:
    """As any gRPC client: TLS and HTTP/2 at the ingress' port."""
    credentials = grpc.ssl_channel_credentials(ground.authority.chain.encode())
    options = [
        ("grpc.ssl_target_name_override", NAME),
        ("grpc.default_authority", NAME),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with grpc.aio.secure_channel(f"{ADDRESS}:{HTTPS}", credentials, options) as found:
        yield found


async def serve(ground: Ground, **annotations: str) -> None:
    ground.services["api"] = ground.services["a"]
    ground.slices["api"] = [slice_of(f"{BACKEND}:{PORT}")]
    ground.secrets["site"] = ground.authority.secret("site", NAME)
    wanted = ingress("api", {"/": "api"}, NAME, tls="site", ssl_redirect="false", **annotations)
    assert await ground.serve(wanted) == []


@pytest.mark.parametrize("protocol", ["GRPC", "GRPCS"])
async def test_grpc(ground: Ground, protocol: str) -> None:
    """Every shape of call, metadata both ways, statuses in trailers, and messages of some size."""
    async with grpc_backend(ground, tls=protocol == "GRPCS"), channel(ground) as client:
        await serve(ground, backend_protocol=protocol, proxy_body_size="8m")
        unary = client.unary_unary("/t.Echo/Unary")
        body = os.urandom(3 << 20)
        call = unary(body, metadata=(("x-mine", "value"),), timeout=20)
        answer = json.loads(await call)
        assert answer["digest"] == hashlib.sha256(body).hexdigest()
        assert "'x-mine': 'value'" in answer["seen"] and "x-forwarded-proto" in answer["seen"]
        assert ("x-back", "initial") in tuple(await call.initial_metadata())
        assert ("x-trailing", "end") in tuple(await call.trailing_metadata())

        many = client.unary_stream("/t.Echo/Many")(b"500", timeout=20)
        assert [each async for each in many] == [b"%d" % number for number in range(500)]

        talk = client.stream_stream("/t.Echo/Talk")(timeout=20)
        for word in (b"one", b"two"):  # each answered before the next is sent
            await talk.write(word)
            assert await talk.read() == b"echo " + word
        await talk.done_writing()
        assert await talk.read() == grpc.aio.EOF

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.unary_unary("/t.Echo/Refuse")(b"", timeout=20)
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert refused.value.details() == "not now, \u00e4"
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await client.unary_unary("/t.Echo/Absent")(b"", timeout=20)
        assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_what_grpc_clients_are_told_of_faults(ground: Ground) -> None:
    """By the HTTP status (gRPC's own table): no endpoint and no route at all, silence, size."""
    async with grpc_backend(ground, tls=False), channel(ground) as client:
        unary = client.unary_unary("/t.Echo/Unary")
        await serve(ground, backend_protocol="GRPC", proxy_read_timeout="1", proxy_body_size="1k")
        talk = client.stream_stream("/t.Echo/Talk")(timeout=20)
        await talk.write(b"first")
        assert await talk.read() == b"echo first"
        with pytest.raises(grpc.aio.AioRpcError) as silent:
            await talk.read()
        assert silent.value.code() != grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.aio.AioRpcError) as large:
            await unary(bytes(5000), timeout=20)
        assert large.value.code() == grpc.StatusCode.UNKNOWN and "413" in large.value.details()
        ground.slices["api"] = []
        await ground.serve(ingress("api", {"/": "api"}, NAME, tls="site", backend_protocol="GRPC"))
        with pytest.raises(grpc.aio.AioRpcError) as nobody:
            await unary(b"", timeout=20)
        assert nobody.value.code() == grpc.StatusCode.UNAVAILABLE
        await ground.serve(ingress("other", {"/x": "a"}, NAME, tls="site"))
        with pytest.raises(grpc.aio.AioRpcError) as nowhere:
            await unary(b"", timeout=20)
        assert nowhere.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def pieces(request: web.Request) -> web.StreamResponse:
    """Answers with what it gets: piece by piece, or `whole`, once it has all of it."""
    if request.headers.get("Upgrade", "").lower() == "websocket":
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data)
        return socket
    if "whole" in request.query:
        return web.Response(body=await request.read())
    response = web.StreamResponse()
    await response.prepare(request)
    async for data in request.content.iter_any():
        await response.write(data)
    await response.write_eof()
    return response


@asynccontextmanager
async def web_backend(context: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{rest:.*}", pieces)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, BACKEND, PORT, ssl_context=context).start()
    try:
        yield
    finally:
        await runner.cleanup()


def tls_of(ground: Ground, name: str, *, wants_client: bool = False) -> ssl.SSLContext:
    chain, key = ground.authority.issue(name)
    file = ground.directory / f"{name}.pem"
    file.write_text(chain + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ground.authority.chain)
    context.load_cert_chain(file)
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


TLS: list[tuple[str, bool, dict[str, str], int]] = [
    # The backend's name and whether it asks for our certificate; annotations; the answer.
    ("whoever.example", False, {}, 200),
    (NAME, False, {"proxy_ssl_verify": "on", "proxy_ssl_secret": "pair"}, 200),
    ("else.example", False, {"proxy_ssl_verify": "on", "proxy_ssl_secret": "pair"}, 502),
    (
        "else.example",
        False,
        {
            "proxy_ssl_verify": "on",
            "proxy_ssl_secret": "pair",
            "proxy_ssl_name": "else.example",
            "proxy_ssl_server_name": "on",
        },
        200,
    ),
    (NAME, True, {"proxy_ssl_secret": "pair"}, 200),
    (NAME, True, {}, 400),
]


@pytest.mark.parametrize(("name", "asks", "annotations", "status"), TLS)
async def test_backends_with_tls(
    ground: Ground, name: str, asks: bool, annotations: dict[str, str], status: int
) -> None:
    ground.secrets["pair"] = ground.authority.secret("pair", "ingress.example")
    async with web_backend(tls_of(ground, name, wants_client=asks)):
        await serve(ground, backend_protocol="HTTPS", **annotations)
        answer = await ground.ask(host=NAME, method="POST", data=b"hello")
        # A backend that is shown no certificate ends the connection, in TLS 1.3 after its begin.
        assert answer.status == status if status != 400 else answer.status in (400, 502)
        assert status != 200 or answer.text == "hello"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS on both sides"])
async def test_web_sockets(ground: Ground, tls: bool) -> None:
    context = tls_of(ground, "whoever.example") if tls else None
    url = f"https://{ADDRESS}:{HTTPS}/" if tls else f"http://{ADDRESS}:{HTTP}/"
    options: dict[str, Any] = {"ssl": ground.trusting(), "server_hostname": NAME} if tls else {}
    async with web_backend(context), aiohttp.ClientSession() as session:
        await serve(ground, **({"backend_protocol": "HTTPS"} if tls else {}))
        async with session.ws_connect(url, headers={"Host": NAME}, **options) as socket:
            for size in (1, 1 << 16, 3 << 20):
                message = os.urandom(size)
                await socket.send_bytes(message)
                assert await socket.receive_bytes() == message


async def fetched(*arguments: str, feed: bytes = b"") -> bytes:
    """What curl prints."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        *("-sS", "--noproxy", "*", "--max-time", "60", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(feed)
    assert process.returncode == 0
    return output


@pytest.mark.parametrize("tls", [False, True], ids=["plain backend", "backend with TLS"])
async def test_clients_of_http_2(ground: Ground, tls: bool) -> None:
    """Bodies of known and unknown length, larger than windows and buffers, many at once."""
    authority = ground.directory / "authority.pem"
    authority.write_text(ground.authority.chain)
    where = f"https://{NAME}:{HTTPS}"
    options = ["--http2", "--cacert", str(authority), "--resolve", f"{NAME}:{HTTPS}:{ADDRESS}"]
    async with web_backend(tls_of(ground, NAME) if tls else None):
        annotations = {"backend_protocol": "HTTPS"} if tls else {}
        await serve(ground, proxy_body_size="0", **annotations)
        body = os.urandom(20 << 20)
        for more in (["-H", "Content-Length:"], []):
            output = await fetched(
                *options, *more, "--data-binary", "@-", f"{where}/?whole", feed=body
            )
            assert hashlib.sha256(output).digest() == hashlib.sha256(body).digest()
        output = await fetched(*options, "-Z", "-w", "%{http_version}\n", f"{where}/[1-50]")
        assert output == b"2\n" * 50


async def test_large_answers_to_slow_clients(ground: Ground) -> None:
    """The backend is not read faster than the client reads, but for what fits into buffers: nginx
    keeps no whole answers in memory or on disk (`proxy-buffering` is off, as upstream)."""
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(4096):
            await response.write(bytes(1 << 16))
            sent += 1 << 16
        return response

    app = web.Application()
    app.router.add_get("/", endless)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, BACKEND, PORT).start()
    try:
        await serve(ground)
        reader, writer = await asyncio.open_connection(ADDRESS, HTTP, limit=1 << 12)
        writer.write(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        before = -1
        while sent != before:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.5)
        assert sent < 64 << 20
        read = 0
        while data := await reader.read(1 << 20):
            read += len(data)
            if read > 200 << 20:
                break
        assert sent > 100 << 20
        writer.transport.abort()
    finally:
        await runner.cleanup()


async def test_slow_and_streaming_requests(ground: Ground) -> None:
    """A body that comes bit by bit: as a whole to the backend, or, with `proxy-request-buffering:
    off`, as it comes."""
    async with web_backend():
        for buffering in ("on", "off"):
            await serve(ground, proxy_request_buffering=buffering, proxy_read_timeout="5")
            reader, writer = await asyncio.open_connection(ADDRESS, HTTP)
            head = f"POST / HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n\r\n"
            for byte in head.encode():
                writer.write(bytes([byte]))
                await writer.drain()
            writer.write(b"5\r\nfirst\r\n")
            if buffering == "off":
                async with asyncio.timeout(60):
                    assert b"first" in await reader.readuntil(b"first")
            writer.write(b"4\r\nlast\r\n0\r\n\r\n")
            async with asyncio.timeout(60):
                answer = await reader.readuntil(b"last")
            assert (b"first" in answer) == (buffering == "on")
            writer.transport.abort()

"""What probes say to their targets, and targets that behave badly."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.node.builders import make_container
from tests.unit.node.fake_runtime import FakeRuntime

from navarch.api.objects import from_object
from navarch.api.types.core_v1 import Probe
from navarch.node.cri.values import ExecResult, RuntimeFailure
from navarch.node.probes.handlers import Handlers, Outcome, Target

Talk = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listen(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that hands each request's head to `talk`."""
    conversations: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await talk(await reader.readuntil(b"\r\n\r\n"), writer)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for each in conversations:
            each.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


def answer(status: str, *headers: str, body: bytes = b"body") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def says(text: bytes) -> Talk:
    async def talk(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()

    return talk


async def probe(document: dict[str, Any], runtime: Any = None, **container: Any) -> Outcome:
    handlers = Handlers(runtime or FakeRuntime())
    target = Target(make_container(**container), "c1", "127.0.0.1")
    try:
        async with asyncio.timeout(60):
            return await handlers.probe(from_object(Probe, document), target)
    finally:
        await handlers.close()


def http(port: int, **action: Any) -> dict[str, Any]:
    return {"httpGet": {"port": port, "path": "/", **action}, "timeoutSeconds": 1}


@pytest.mark.parametrize(
    ("reply", "success", "message"),
    [
        pytest.param(answer("304 Not Modified", body=b""), True,
                     "Probe terminated redirects, Response body: ", id="304 is a warning"),
        pytest.param(answer("302 Found"), True, "Probe terminated redirects, Response body: body",
                     id="redirect to nowhere"),
        pytest.param(answer("301 Moved", "Location: https://127.0.0.2/"), True,
                     "Probe terminated redirects, Response body: body", id="to another host"),
        pytest.param(answer("100 Continue", body=b"") + answer("200 OK"), True, "body",
                     id="interim answer"),
        pytest.param(answer("200 OK", "Content-Encoding: gzip"), True, "body", id="not decoded"),
        pytest.param(answer("400 Bad"), False, "HTTP probe failed with statuscode: 400", id="400"),
        pytest.param(b"", False, 'Get "http://127.0.0.1:{port}/": EOF', id="nothing"),
        pytest.param(b"SSH-2.0-x\r\n\r\n", False,
                     'Get "http://127.0.0.1:{port}/": net/http: HTTP/1.x transport connection',
                     id="not HTTP"),
        pytest.param(answer("200 OK", "X: " + "x" * 3_000_000), False,
                     'Get "http://127.0.0.1:{port}/": net/http: HTTP/1.x transport connection',
                     id="huge header"),
    ],
)  # fmt: skip
async def test_answers(reply: bytes, success: bool, message: str) -> None:
    async with listen(says(reply)) as port:
        outcome = await probe(http(port))
    assert (outcome.success, outcome.discarded) == (success, "")
    assert outcome.message.startswith(message.replace("{port}", str(port))), outcome.message
    assert outcome.warning == message.startswith("Probe terminated")


async def test_redirects_on_the_same_host_are_followed() -> None:
    paths = []

    async def talk(head: bytes, writer: asyncio.StreamWriter) -> None:
        path = head.split(b" ")[1]
        paths.append(path)
        moved = answer("307 Moved", "Location: /there?x=%20", "Content-Length: 0", body=b"")
        writer.write(answer("200 OK") if path.startswith(b"/there") else moved)

    async with listen(talk) as port:
        assert await probe(http(port)) == Outcome(True, "body")
    assert paths == [b"/", b"/there?x=%20"]


async def test_a_ring_of_redirects_ends() -> None:
    asked = []

    async def talk(head: bytes, writer: asyncio.StreamWriter) -> None:
        asked.append(head)
        writer.write(answer("302 Found", "Location: /again", "Content-Length: 0", body=b""))

    async with listen(talk) as port:
        outcome = await probe(http(port))
    assert outcome == Outcome(
        False, f'Get "http://127.0.0.1:{port}/again": stopped after 10 redirects'
    )
    assert len(asked) == 10


@pytest.mark.parametrize(
    ("given", "sent", "absent"),
    [
        ([], ["User-Agent: kube-probe/1.36", "Accept: */*", "Connection: close"],
         ["Accept-Encoding", "Cookie"]),
        ([("user-agent", "me"), ("accept", "text/plain")], ["user-agent: me", "accept: text/plain"],
         ["kube-probe", "*/*"]),
        ([("Accept", ""), ("User-Agent", "")], ["Host: 127.0.0.1"], ["Accept", "User-Agent"]),
        ([("Host", "shop.test")], ["Host: shop.test"], ["Host: 127"]),
        ([("X-A", "1"), ("X-A", "2")], ["X-A: 1", "X-A: 2"], []),
    ],
)  # fmt: skip
async def test_headers(given: list[tuple[str, str]], sent: list[str], absent: list[str]) -> None:
    heads = []

    async def talk(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head.decode())
        writer.write(answer("200 OK", "Set-Cookie: a=b"))

    headers = [{"name": name, "value": value} for name, value in given]
    async with listen(talk) as port:
        assert (await probe(http(port, httpHeaders=headers))).success
    assert all(each in heads[0] for each in sent), heads
    assert not any(each in heads[0] for each in absent), heads


async def test_an_endless_body_is_not_read() -> None:
    async def talk(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK"))
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with listen(talk) as port:
        outcome = await probe({**http(port), "timeoutSeconds": 15})
    assert outcome.success and len(outcome.message) == 10 * 1024


async def test_a_body_that_stalls_counts_neither_way() -> None:
    async def talk(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("200 OK", "Content-Length: 100"))
        await asyncio.sleep(60)

    async with listen(talk) as port:
        outcome = await probe(http(port))
    assert outcome.discarded == "failure" and outcome.message.endswith("while reading body)")


def certificate(directory: Path) -> ssl.SSLContext:
    """A certificate that is out of date, made out to nobody, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    then = datetime.now(UTC) - timedelta(days=9)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(then)
        .not_valid_after(then + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_https_takes_every_certificate(tmp_path: Path) -> None:
    async with listen(says(answer("200 OK")), certificate(tmp_path)) as port:
        assert await probe(http(port, scheme="HTTPS")) == Outcome(True, "body")
    async with listen(says(answer("200 OK"))) as port:
        assert not (await probe(http(port, scheme="HTTPS"))).success


class Executing(FakeRuntime):
    """A runtime whose commands end as the test says."""

    def __init__(self, result: ExecResult | RuntimeFailure) -> None:
        super().__init__()
        self.result = result
        self.ran: list[tuple[list[str], float]] = []

    async def exec_sync(self, container_id: str, command: Any, timeout: float) -> ExecResult:
        self.ran.append((list(command), timeout))
        if isinstance(self.result, RuntimeFailure):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (ExecResult(0, b"fine", b""), Outcome(True, "fine")),
        (ExecResult(7, b"out", b"err"), Outcome(False, "outerr")),
        (ExecResult(1, b"x" * 20_000, b""), Outcome(False, "x" * 10_240)),
        (RuntimeFailure("late", code="DEADLINE_EXCEEDED"),
         Outcome(False, 'command timed out: "cat /ready $(OTHER)" timed out after 1m30s')),
        (RuntimeFailure("no such file"),
         Outcome(False, "no such file", discarded="unknown")),
    ],
)  # fmt: skip
async def test_commands(result: ExecResult | RuntimeFailure, expected: Outcome) -> None:
    runtime = Executing(result)
    document = {"exec": {"command": ["cat", "/$(NAME)", "$(OTHER)"]}, "timeoutSeconds": 90}
    outcome = await probe(document, runtime, env=[{"name": "NAME", "value": "ready"}])
    assert outcome == expected
    assert runtime.ran == [(["cat", "/ready", "$(OTHER)"], 90.0)]


async def test_a_port_by_name() -> None:
    async with listen(says(b"")) as port:
        ports = [{"name": "db", "containerPort": port}]
        assert (await probe({"tcpSocket": {"port": "db"}}, ports=ports)).success


async def test_grpc_where_nobody_listens() -> None:
    async with listen(says(b"")) as port:
        pass
    outcome = await probe({"grpc": {"port": port}, "timeoutSeconds": 1})
    assert outcome.message == (
        f'timeout: failed to connect service "127.0.0.1:{port}" within 1s: '
        "context deadline exceeded"
    )


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (30.0, "timeout: health rpc did not complete within 1s"),
        (0.0, "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"),
    ],
)
async def test_grpc_that_fails(seconds: float, message: str) -> None:
    async def check(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(seconds)
        await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return b""

    server = grpc.aio.server()
    method = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", method)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        outcome = await probe({"grpc": {"port": port}, "timeoutSeconds": 1})
    finally:
        await server.stop(None)
    assert outcome == Outcome(False, message)

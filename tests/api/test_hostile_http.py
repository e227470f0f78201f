"""Bytes that are hardly HTTP, over plain sockets: bad heads, contradictory lengths, clients that
stop in the middle or leave, plain HTTP where TLS is spoken."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import dataclass

import pytest
from tests.api.conftest import Api, config_map
from tests.api.hostile import CM, bounded

from navarch.apiserver.http import body, connection
from navarch.apiserver.server import Server

POST = f"POST {CM} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
OBJECT = b'{"metadata":{"name":"x"}}'
SMUGGLED = b"DELETE /api/v1/namespaces/default/configmaps/there HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Heard:
    """What the server said until it closed the connection, and how soon it began."""

    text: bytes
    seconds: float

    @property
    def statuses(self) -> list[int]:
        return [int(code) for code in re.findall(rb"HTTP/\d\.\d (\d+) ", self.text)]


async def talk(server: Server, *parts: bytes, pause: float = 0.0) -> Heard:
    """Send the parts and listen to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    text = b""
    began = time.perf_counter()
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        text = await asyncio.wait_for(reader.read(65536), 60)
        took = time.perf_counter() - began
        while piece := await asyncio.wait_for(reader.read(65536), 60):
            text += piece
    except ConnectionResetError:
        took = time.perf_counter() - began
    finally:
        writer.close()
    return Heard(text, took)


def get(*headers: bytes) -> bytes:
    lines = [b"GET /version HTTP/1.1", *headers, b"Connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(*headers: bytes, content: bytes = OBJECT) -> bytes:
    lines = b"".join(header + b"\r\n" for header in (*headers, b"Connection: close"))
    return POST + lines + b"\r\n" + content


LENGTH = b"Content-Length: %d" % len(OBJECT)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(get(), 400, id="no host"),
        pytest.param(get(b"Host: a", b"Host: b"), 400, id="two hosts"),
        pytest.param(b"garbage\r\n\r\n", 400, id="garbage"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", 400, id="TLS on the plain port"),
        pytest.param(b"GET /version\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(b"GET /version HTTP/9.9\r\nHost: x\r\n\r\n", 505, id="HTTP/9.9"),
        pytest.param(b"BREW /version HTTP/1.1\r\nHost: x\r\n\r\n", 405, id="a method of nobody"),
        pytest.param(get(b"Host: x").replace(b"/version", b"/api/v1/%zz"), 400, id="bad escape"),
        pytest.param(get(b"Host: x", b"A: b\rc"), 400, id="CR in a header"),
        pytest.param(get(b"Host: x", b"A: b\0c"), 400, id="NUL in a header"),
        pytest.param(get(b"Host: x", b"A b: c"), 400, id="space in a header's name"),
        pytest.param(get(b"Host: x", b" folded: c"), 400, id="folded header"),
        pytest.param(post(b"Content-Length: 25", b"Content-Length: 26"), 400, id="two lengths"),
        pytest.param(post(b"Content-Length: -1"), 400, id="negative length"),
        pytest.param(post(b"Content-Length: +25"), 400, id="length with a sign"),
        pytest.param(post(b"Content-Length: 1e3"), 400, id="length in science"),
        pytest.param(post(b"Content-Length: " + b"9" * 40), 400, id="length beyond everything"),
        pytest.param(post(b"Content-Length: 4000000"), 413, id="length beyond the limit"),
        pytest.param(post(b"Transfer-Encoding: xchunked"), 501, id="unknown coding"),
        pytest.param(post(b"Transfer-Encoding: chunked, identity"), 400, id="chunked is not last"),
        pytest.param(
            post(b"Transfer-Encoding: chunked", content=b"zz\r\n{}\r\n0\r\n\r\n"), 400,
            id="bad chunk",
        ),
        pytest.param(
            post(b"Transfer-Encoding: chunked", content=b"-2\r\n{}\r\n0\r\n\r\n"), 400,
            id="negative chunk",
        ),
        pytest.param(
            post(LENGTH, b"Transfer-Encoding: chunked", content=OBJECT + SMUGGLED), 400,
            id="length and chunked",
        ),
        pytest.param(post(LENGTH, b"Expect: foo"), 417, id="unknown expectation"),
        pytest.param(get(b"Host: x", b"A: " + b"x" * (2 << 20)), 431, id="2 MiB of header"),
        pytest.param(
            b"GET /" + b"x" * (2 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, id="2 MiB of path"
        ),
        pytest.param(get(b"Host: x", *[b"A%d: b" % n for n in range(100_000)]), 431,
                     id="100 000 headers"),
        pytest.param(get(b"Host: x", *[b"A%d: b" % n for n in range(1500)]), 200,
                     id="1500 headers"),
        pytest.param(get(b"Host: x", *[b"A: " + b"x" * 9000] * 150), 431,
                     id="many long headers"),
        pytest.param(get(b"Host: x").replace(b"GET /", b"GET http://x.example/"), 200,
                     id="absolute form"),
        pytest.param(get(b"Host: x").replace(b"GET ", b"HEAD "), 200, id="head"),
        pytest.param(get(b"Host: x").replace(b"GET /version", b"HEAD " + CM.encode()), 405,
                     id="head of a resource"),
        pytest.param(get(b"Host: x").replace(b"GET /version", b"OPTIONS " + CM.encode()), 405,
                     id="options"),
        pytest.param(get(b"Host: x").replace(b"GET /version", b"TRACE " + CM.encode()), 405,
                     id="trace"),
        pytest.param(get(b"Host: x").replace(b"HTTP/1.1", b"HTTP/1.0"), 200, id="HTTP/1.0"),
        *(
            pytest.param(
                f"GET {CM}?watch=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\n"
                f"Upgrade: websocket\r\nSec-WebSocket-Version: {version}\r\n"
                f"Sec-WebSocket-Key: {key}\r\n\r\n".encode(), 400, id=f"WebSocket {name}",
            )
            for name, version, key in (("key", "13", "x"), ("version", "99", "A" * 22 + "=="))
        ),
        pytest.param(
            post(b"Transfer-Encoding: chunked",
                 content=b"0\r\nX-Remote-User: admin\r\n\r\n"), 400,
            id="trailer of an empty body",
        ),
        pytest.param(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404,
                     id="connect"),
    ],
)  # fmt: skip
async def test_bad_requests(
    api: Api, caplog: pytest.LogCaptureFixture, sent: bytes, status: int
) -> None:
    (await api.post(CM, config_map("there"))).ok(201)
    before = await api.server.store.revision()
    with bounded():
        heard = await talk(api.server, sent)
    assert heard.statuses == [status], heard.text[:500]
    assert b"Traceback" not in heard.text
    assert await api.server.store.revision() == before
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
    (await api.get("/version")).ok()


async def test_a_length_that_hides_a_second_request(api: Api) -> None:
    """What follows the body is a request of its own, and what is inside it is none."""
    inner = SMUGGLED
    (await api.post(CM, config_map("there"))).ok(201)
    sent = POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(inner) + inner
    assert (await talk(api.server, sent)).statuses == [400]
    (await api.get(f"{CM}/there")).ok()


async def test_requests_in_a_row_on_one_connection(api: Api) -> None:
    pipelined = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" * 20 + get(b"Host: x")
    assert (await talk(api.server, pipelined)).statuses == [200] * 21


async def test_a_body_that_nobody_reads(api: Api) -> None:
    """It is taken in, and what follows is the next request; if it does not come, nothing does."""
    head = b"GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n"
    heard = await talk(api.server, head, b"GET ", b"/api" + get(b"Host: x"), pause=0.05)
    assert heard.statuses == [200, 200]
    assert (await talk(api.server, head, b"half", pause=0.05)).statuses == [200]


async def test_chunks_above_the_limit_end_early(api: Api) -> None:
    """The server does not read on to the end of what it will not take."""
    piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    heard = await talk(api.server, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[piece] * 6)
    assert heard.statuses in ([413], [])


async def test_a_head_byte_by_byte(api: Api) -> None:
    parts = [bytes([each]) for each in get(b"Host: x")]
    assert (await talk(api.server, *parts)).statuses == [200]


async def test_a_body_that_waits_to_be_asked_for(api: Api) -> None:
    head = POST + b"Connection: close\r\nContent-Length: 25\r\nExpect: 100-continue\r\n\r\n"
    assert (await talk(api.server, head, OBJECT, pause=0.05)).statuses == [100, 201]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param([b""], 0, id="nothing"),
        pytest.param([b"G"], 400, id="one byte"),
        pytest.param([b"GET /version HTTP/1.1\r\nHost"], 400, id="half a head"),
        pytest.param([b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", b"GET"], 400,
                     id="half a second head"),
        pytest.param([POST + b"Content-Length: 25\r\n\r\n{"], 408, id="half a body"),
        pytest.param([POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"], 408,
                     id="half a chunk"),
    ],
)  # fmt: skip
async def test_clients_that_stop(
    api: Api, monkeypatch: pytest.MonkeyPatch, sent: list[bytes], status: int
) -> None:
    """The limits are half a minute; here they are shorter."""
    assert connection.REQUEST_HEAD_SECONDS == 32
    assert body.BODY_STALL_SECONDS < 60
    monkeypatch.setattr(connection, "REQUEST_HEAD_SECONDS", 0.2)
    monkeypatch.setattr(body, "BODY_STALL_SECONDS", 0.2)
    heard = await talk(api.server, *sent, pause=0.05)
    assert heard.seconds < 20
    assert (heard.statuses or [0])[-1] == status
    assert (await api.get(f"{CM}/x")).status == 404


async def test_a_connection_that_rests_is_not_spoken_to(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooled connection stays silent after its request: an answer that nobody asked for would be
    taken for that of the next request."""
    monkeypatch.setattr(connection, "REQUEST_HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(POST + b"Content-Length: 25\r\n\r\n")
    await writer.drain()
    writer.write(OBJECT)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201")
    await reader.read(65536)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.3)
    writer.close()


async def test_a_drip_is_no_progress(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not keep a half request alive."""
    monkeypatch.setattr(connection, "REQUEST_HEAD_SECONDS", 0.3)
    heard = await talk(api.server, *[b"G"] + [b"E"] * 7, pause=0.1)
    assert heard.statuses in ([400], [])


@pytest.mark.parametrize("path", [CM + "?watch=1", CM, "/version"])
async def test_clients_that_leave(api: Api, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """In the middle of a watch or of a request: no complaint, and nothing is left of them."""
    (await api.post(CM, config_map("there"))).ok(201)
    server = api.server
    for is_abrupt in (True, False):
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await asyncio.sleep(0.005)
            writer.transport.abort() if is_abrupt else writer.close()
    await api.patch(f"{CM}/there", {"data": {"a": "b"}})
    for _ in range(500):
        if not server.core.gauges["watches"] and not server.app.metrics.in_flight:
            break
        await asyncio.sleep(0.01)
    cache = server.core.catalog.get("", "v1", "configmaps").cache
    assert list(cache.watchers()) == []
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_many_connections_that_do_nothing(api: Api) -> None:
    held = [await asyncio.open_connection("127.0.0.1", api.server.port) for _ in range(300)]
    began = time.perf_counter()
    (await api.get("/version")).ok()
    assert time.perf_counter() - began < 20
    for _, writer in held:
        writer.close()

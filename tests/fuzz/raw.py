# ruff: noqa: E501 - tables, read best in the width they have
"""Bytes that were a request once: spoiled in head, lengths, chunks and upgrades.

Whatever comes, the server answers with a status that is none of its own failures, or hangs up."""

from __future__ import annotations

import asyncio
import re

from tests.fuzz.generator import Generator, Request

PIECES = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\xff", b"HTTP/1.1", b"Content-Length: 5\r\n", b"\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: z\r\n\r\n", b"%00",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"x" * 9000, b"PRI * HTTP/2.0\r\n\r\n",
    b"\x81\x80\0\0\0\0", b"\x88\x82\0\0\0\0\x03\xe8", b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff",
)  # fmt: skip
UPGRADES = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
)
UPGRADED = (
    "/api/v1/namespaces/default/configmaps?watch=1",
    "/api/v1/namespaces/default/pods/there/exec?command=ls&stdout=1",
    "/api/v1/namespaces/default/pods/there/portforward?ports=80",
    "/api/v1/namespaces/default/pods/there/log?follow=1",
)
SERVER_FAILURE = re.compile(rb"^HTTP/1\.[01] 50[02] (?!.*no preferred addresses found)", re.DOTALL)
"""Not among them: codings and versions of HTTP that nobody knows, nodes without an address."""


def spoiled(generator: Generator) -> bytes:
    """A request, or one that asks for a WebSocket and some frames, with a few pieces spoiled."""
    random = generator.random
    if generator.chance(0.3):
        headers = (*generator.headers(), *UPGRADES)
        data = Request("GET", random.choice(UPGRADED), headers).wire()
        data += random.randbytes(random.choice((0, 2, 14, 200)))
    else:
        data = generator.request().wire()[:20_000]
    spoiled = bytearray(data)
    for _ in range(random.randrange(5)):
        at = random.randrange(min(len(spoiled), 600) + 1)
        match random.randrange(4):
            case 0:
                spoiled[at:at] = random.choice(PIECES)
            case 1:
                del spoiled[at : at + random.choice((1, 2, 30))]
            case 2:
                spoiled[at : at + 1] = bytes([random.randrange(256)])
            case _:
                spoiled[at:at] = spoiled[: random.randrange(200)]
    return bytes(spoiled)


async def answer_to(port: int, data: bytes) -> bytes:
    """What the server says within a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = b""
    try:
        writer.write(data)
        async with asyncio.timeout(0.3):
            while len(heard) < 100_000 and (piece := await reader.read(65536)):
                heard += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return heard

"""Clients by the thousand that begin and never end: handshakes, heads, bodies, watches.

Each costs the server some memory and no time, and whoever asks properly is served.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import uvloop
from tests.api.conftest import Api, config_map, running_server
from tests.api.hostile import CM, ROOT, resident
from tests.api.test_tls import certificates, client_tls, get, options_of

from navarch.apiserver.server import Server
from navarch.store.memory import open_memory_store

MANY = 5000
BYTES_EACH = 24 * 1024
"""Of this process, which holds both ends: the server's connection, its buffers, a bare socket."""
PROCESSOR_SECONDS_EACH = 0.004
HEAD = f"POST {CM} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
WATCH = f"GET {CM}?watch=1 HTTP/1.1\r\nHost: x\r\nTest-User: w\r\n\r\n".encode()


@asynccontextmanager
async def crowd(port: int, number: int, said: bytes) -> AsyncIterator[None]:
    """So many sockets that have said something and are silent now."""
    loop = asyncio.get_running_loop()
    sockets = []
    try:
        for _ in range(number):
            sockets.append(one := socket.socket())
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            await loop.sock_connect(one, ("127.0.0.1", port))
            if said:
                await loop.sock_sendall(one, said)
        yield
    finally:
        for one in sockets:
            one.close()


@pytest.mark.parametrize(
    ("said", "number"),
    [
        pytest.param(b"", MANY, id="nothing"),
        pytest.param(HEAD[:30], MANY, id="half a head"),
        pytest.param(HEAD + b"Content-Length: 1000000\r\n\r\n{", MANY, id="row-84 half a body"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n{", MANY, id="half a chunk"
        ),
        pytest.param(WATCH, 1000, id="watches that nobody reads"),
    ],
)
async def test_crowds_that_stall(said: bytes, number: int) -> None:
    async with running_server() as server, aiohttp.ClientSession() as session:
        api = Api(server, session)
        (await api.post(CM, config_map("there"), **ROOT)).ok(201)
        before, began = resident(), time.process_time()
        async with crowd(server.port, number, said):
            for round_ in range(20):
                (await api.get(f"{CM}/there", **ROOT)).ok()
                (await api.patch(f"{CM}/there", {"data": {"a": str(round_)}}, **ROOT)).ok()
            assert resident() - before < number * BYTES_EACH
            assert time.process_time() - began < number * PROCESSOR_SECONDS_EACH
        async with asyncio.timeout(60):
            front = server._front
            assert front is not None
            while len(front.connections) > 5 or server.app.metrics.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        (await api.get(f"{CM}/there", **ROOT)).ok()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half"])
def test_handshakes_that_never_end(tmp_path: Path, said: bytes) -> None:
    """On the loop that daemons run on: asyncio's own fills a quarter of a megabyte with zeros for
    each connection."""
    paths = certificates(tmp_path / "own")

    async def handshakes() -> None:
        server = Server(options_of(paths), open_memory_store())
        await server.start()
        try:
            tls = client_tls(paths, paths)
            assert await get(server, tls) == 200
            before, began = resident(), time.process_time()
            async with crowd(server.port, MANY, said):
                for _ in range(5):
                    assert await get(server, tls) == 200
                # Each has buffers of its own in the library that does it.
                assert resident() - before < MANY * 4 * BYTES_EACH
                assert time.process_time() - began < MANY * PROCESSOR_SECONDS_EACH
            assert await get(server, tls) == 200
        finally:
            await server.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(handshakes())

"""Requests with a body go over connections of the client's own; whatever the server's manners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from navarch.api.errors import ApiError
from navarch.client import Client, ClientConfig, exchange
from navarch.client.client import ApiConnectionError
from navarch.client.clock import FakeClock
from navarch.client.exchange import HEAD_LIMIT, IDLE_SECONDS, PLENTY

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKS = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"
    b"3\r\nabc\r\n5;ext=1\r\nde\r\nf\r\n0\r\n\r\n"
)


class RawServer:
    """Answers request after request with what it is told; None hangs up."""

    def __init__(self) -> None:
        self.answers: list[bytes | None] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.pieces: Callable[[bytes], list[bytes]] = lambda data: [data]
        self.hang_up_after = False
        self.arrivals: asyncio.Queue[None] = asyncio.Queue()
        """Tells of each request."""
        self.gate = asyncio.Event()
        """No answer before it is open."""
        self.gate.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                self.arrivals.put_nowait(None)
                await self.gate.wait()
                answer = self.answers.pop(0)
                if answer is None:
                    break
                for piece in self.pieces(answer):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.hang_up_after:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def raw() -> RawServer:
    return RawServer()


@pytest.fixture
async def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def client(raw: RawServer, clock: FakeClock) -> AsyncIterator[Client]:
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with Client(ClientConfig(f"http://127.0.0.1:{port}/base"), clock=clock) as client:
            yield client
    finally:
        server.close()


async def post(client: Client, path: str = "/x", **query: str) -> bytes:
    return await client.request("POST", path, body=b"{}", query=query)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(OK, b"{}", id="length"),
        pytest.param(CHUNKS, b"abcde\r\nf", id="chunks"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="nothing"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"{}", id="interim answer first"),
        pytest.param(b"HTTP/1.1 201 Created\r\nContent-length:0\r\n\r\n", b"", id="empty"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_answers(
    raw: RawServer, client: Client, answer: bytes, body: bytes, size: int
) -> None:
    """However they are cut into pieces; the connection serves the next request too."""
    raw.pieces = lambda data: [data[at : at + size] for at in range(0, len(data), size)]
    raw.answers = [answer, answer]
    assert await post(client) == body
    assert await post(client) == body
    assert raw.connections == 1


async def test_what_is_sent(raw: RawServer, client: Client) -> None:
    raw.answers = [OK]
    await post(client, "/api/v1/pods/a-b.c:d", fieldManager="me & you")
    head = raw.requests[0]
    assert head.startswith(b"POST /base/api/v1/pods/a-b.c:d?fieldManager=me+%26+you HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\n" in head
    assert b"User-Agent: navarch\r\n" in head
    assert head.endswith(b"Content-Length: 2\r\n\r\n{}")


@pytest.mark.parametrize(
    "closing",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", id="no length"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 13\r\n\r\nuntil the end", id="old"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 13\r\n\r\nuntil the end",
            id="said",
        ),
    ],
)
async def test_a_connection_that_ends(raw: RawServer, client: Client, closing: bytes) -> None:
    raw.answers, raw.hang_up_after = [closing, closing], True
    assert await post(client) == b"until the end"
    assert await post(client) == b"until the end"
    assert raw.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="hangs up"),
        pytest.param(b"nonsense\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", id="half"),
        pytest.param(CHUNKS[:-2], id="half of the chunks"),
        pytest.param(OK + b"more", id="more than the length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", id="size"),
        pytest.param(b"H" * (HEAD_LIMIT + 1), id="endless head"),
    ],
)
async def test_no_answer(raw: RawServer, client: Client, answer: bytes | None) -> None:
    raw.answers, raw.hang_up_after = [answer, OK], True
    with pytest.raises(ApiConnectionError):
        await post(client)
    assert await post(client) == b"{}"


async def test_errors_of_the_server(raw: RawServer, client: Client, clock: FakeClock) -> None:
    status = b'{"kind":"Status","reason":"Conflict","message":"no","code":409}'
    head = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n" % len(status)
    raw.answers = [head + status, OK]
    with pytest.raises(ApiError) as caught:
        await post(client)
    assert caught.value.is_conflict
    busy = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
    raw.answers = [busy, OK]
    await raw.arrivals.get()
    waiting = asyncio.create_task(post(client))
    await raw.arrivals.get()
    await clock.advance(0.5)
    assert not waiting.done()
    await clock.advance(1.0)
    assert await waiting == b"{}"


async def test_idle_connections_are_not_used_for_long(
    raw: RawServer, client: Client, clock: FakeClock
) -> None:
    raw.answers = [OK, OK, OK]
    await post(client)
    await clock.advance(IDLE_SECONDS - 1)
    await post(client)
    assert raw.connections == 1
    await clock.advance(IDLE_SECONDS + 1)
    await post(client)
    assert raw.connections == 2


async def test_an_answer_nobody_waits_for_is_nobody_elses(raw: RawServer, client: Client) -> None:
    raw.gate.clear()
    raw.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst", OK]
    first = asyncio.create_task(post(client))
    await raw.arrivals.get()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    raw.gate.set()
    assert await post(client) == b"{}"


async def test_many_at_once(raw: RawServer, client: Client) -> None:
    raw.answers = [OK] * 50
    assert await asyncio.gather(*(post(client) for _ in range(50))) == [b"{}"] * 50
    assert raw.connections <= 50
    used = raw.connections
    raw.answers = [OK] * 10
    await asyncio.gather(*(post(client) for _ in range(10)))
    assert raw.connections == used


async def test_in_a_flood_connections_are_handed_on(
    raw: RawServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "PATIENCE_SECONDS", 60.0)
    number = 3 * PLENTY
    raw.answers = [OK] * number
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(post(client, f"/{each}")) for each in range(number)]
    assert [task.result() for task in tasks] == [b"{}"] * number
    # Those that came first each made one before there were plenty.
    assert raw.connections == PLENTY


async def test_nobody_waits_for_ever_for_a_connection(raw: RawServer, client: Client) -> None:
    raw.answers = [OK] * (PLENTY + 2)
    raw.gate.clear()
    slow = [asyncio.create_task(post(client)) for _ in range(PLENTY)]
    for _ in slow:
        await raw.arrivals.get()
    late, given_up = (asyncio.create_task(post(client)) for _ in range(2))
    await asyncio.sleep(0)
    given_up.cancel()
    await raw.arrivals.get()  # over a connection of its own
    raw.gate.set()
    assert await asyncio.gather(*slow, late) == [b"{}"] * (PLENTY + 1)
    assert raw.connections == PLENTY + 1

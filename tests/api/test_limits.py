"""Limits of time and number: requests that last, clients that do not read, too many connections."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from tests.api.conftest import Api, config_map, running_server
from tests.api.test_hostile_http import talk

from navarch.apiserver import server as server_module
from navarch.apiserver.http import connection
from navarch.apiserver.http.health import START_HOOKS
from navarch.apiserver.options import ServerOptions

CM = "/api/v1/namespaces/default/configmaps"


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Api]:
    async with (
        running_server(options=ServerOptions(port=0, **options)) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Api(server, session)


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


def test_the_limits_are_upstreams() -> None:
    assert (connection.REQUEST_HEAD_SECONDS, connection.IDLE_SECONDS) == (32, 90)
    options = ServerOptions()
    assert options.request_timeout_seconds == 60
    assert (options.max_requests_inflight, options.max_mutating_requests_inflight) == (400, 200)
    assert options.min_request_timeout_seconds == 1800


@pytest.mark.parametrize("query", ["", "?timeout=10m", "?timeout=0s", "?timeout=50ms"])
async def test_no_request_lasts_for_ever(monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    """The server's own limit holds whatever the client asks for; a shorter one is kept to."""
    monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.05)
    async with serving(request_timeout_seconds=0.3) as api:
        monkeypatch.setitem(api.server.app.verbs, "get", never)
        began = time.perf_counter()
        answer = await api.get(f"{CM}/x{query}")
        assert time.perf_counter() - began < 30
        assert answer.status == 504
        assert answer.json["reason"] == "Timeout"
        assert "did not complete within the allotted timeout" in answer.json["message"]
        # The connection and the seats of the request are good for others.
        monkeypatch.undo()
        assert (await api.get(f"{CM}/x")).status == 404
        assert api.server.app.metrics.in_flight == 0


async def test_watches_outlast_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.05)
    async with (
        serving(request_timeout_seconds=0.2) as api,
        api.watch(f"{CM}?watch=1&timeout=100ms") as events,
    ):
        await asyncio.sleep(0.6)
        (await api.post(CM, config_map("x"))).ok(201)
        assert (await anext(events))["type"] == "ADDED"


async def test_a_watch_ends_at_its_own_time() -> None:
    async with serving() as api:
        began = time.perf_counter()
        answer = await api.get(f"{CM}?watch=1&timeoutSeconds=1")
        assert answer.status == 200
        assert 0.9 < time.perf_counter() - began < 30


async def test_a_watch_over_http_1_0() -> None:
    """Without chunks: the end of the connection is the end of the stream."""
    async with serving() as api:
        (await api.post(CM, config_map("x"))).ok(201)
        head = f"GET {CM}?watch=1&timeoutSeconds=1 HTTP/1.0\r\nHost: x\r\n\r\n"
        heard = await talk(api.server, head.encode())
        assert heard.statuses == [200]
        assert b"chunked" not in heard.text.lower()
        line = heard.text.partition(b"\r\n\r\n")[2].splitlines()[0]
        assert json.loads(line)["type"] == "ADDED"


async def test_watchers_that_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are cut off; the others get everything, and writers do not notice."""
    monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
    async with serving() as api:
        deaf = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port, limit=1024)
            writer.write(f"GET {CM}?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            deaf.append((reader, writer))
        async with asyncio.timeout(60), api.watch(f"{CM}?watch=1") as events:
            while api.server.core.gauges["watches"] < 6:  # noqa: ASYNC110 - a plain number
                await asyncio.sleep(0.01)

            async def listen(number: int) -> int:
                found = 0
                async for _ in events:
                    found += 1
                    if found == number:
                        break
                return found

            listener = asyncio.create_task(listen(100))
            slowest = 0.0
            for number in range(100):
                began = time.perf_counter()
                (await api.post(CM, config_map(f"x{number}", big="x" * 100_000))).ok(201)
                slowest = max(slowest, time.perf_counter() - began)
            assert await listener == 100
            assert slowest < 10
            while api.server.core.gauges["watches"] > 1:  # noqa: ASYNC110 - a plain number
                await asyncio.sleep(0.02)
        for _, writer in deaf:
            writer.transport.abort()


async def test_clients_that_never_read_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
    async with serving() as api:
        for number in range(40):
            (await api.post(CM, config_map(f"x{number}", big="x" * 500_000))).ok(201)
        _, writer = await asyncio.open_connection("127.0.0.1", api.server.port, limit=1024)
        writer.write(f"GET {CM} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(60):
            while not api.server.app.metrics.in_flight:  # noqa: ASYNC110 - a plain number
                await asyncio.sleep(0.005)
            while api.server.app.metrics.in_flight:  # noqa: ASYNC110 - a plain number
                await asyncio.sleep(0.02)
        writer.transport.abort()


async def test_too_many_connections() -> None:
    """Those that do nothing make room for those that come."""
    async with serving(max_connections=20) as api:
        async with api.watch(f"{CM}?watch=1") as events:
            held = [await asyncio.open_connection("127.0.0.1", api.server.port) for _ in range(100)]
            (await api.post(CM, config_map("x"))).ok(201)
            assert (await anext(events))["type"] == "ADDED"
        front = api.server._front
        assert front is not None
        assert len(front.connections) <= 21
        for _, writer in held:
            writer.transport.abort()


async def test_pages_of_other_origins() -> None:
    async with serving(cors_allowed_origins=(r"^https://good\.example(:|$)",)) as api:
        good, bad = {"Origin": "https://good.example"}, {"Origin": "https://good.example.evil"}
        answer = await api.get(CM, headers=good)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://good.example"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert (await api.request("OPTIONS", CM, headers=good)).status == 204
        answer = await api.get(CM, headers=bad)
        assert answer.status == 200
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert (await api.request("OPTIONS", CM, headers=bad)).status == 405
    async with serving() as api:
        answer = await api.get(CM, headers=good)
        assert "Access-Control-Allow-Origin" not in answer.headers


STARTED = [
    *(f"[+]poststarthook/{name} ok" for name in START_HOOKS),
    "[+]autoregister-completion ok",
]


@pytest.mark.parametrize(
    ("path", "status", "lines"),
    [
        ("/readyz", 200, ["ok"]),
        (
            "/readyz?verbose",
            200,
            [
                "[+]ping ok",
                "[+]log ok",
                "[+]etcd ok",
                "[+]etcd-readiness ok",
                "[+]informer-sync ok",
                "[+]shutdown ok",
                *STARTED,
                "readyz check passed",
            ],
        ),
        (
            "/livez?verbose&exclude=etcd",
            200,
            ["[+]ping ok", "[+]log ok", "[+]etcd excluded: ok", *STARTED, "livez check passed"],
        ),
        (
            "/livez?verbose&exclude=b&exclude=a",
            200,
            [
                "[+]ping ok",
                "[+]log ok",
                "[+]etcd ok",
                *STARTED,
                'warn: some health checks cannot be excluded: no matches for "a", "b"',
                "livez check passed",
            ],
        ),
        ("/livez/ping", 200, ["ok"]),
        ("/livez/shutdown", 404, ["404 page not found"]),
        ("/readyz/poststarthook/rbac/bootstrap-roles", 200, ["ok"]),
    ],
)
async def test_health(api: Api, path: str, status: int, lines: list[str]) -> None:
    answer = await api.get(path)
    assert answer.status == status
    assert answer.body.decode().splitlines() == lines
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_what_is_not_healthy(api: Api) -> None:
    api.server.health.checks["broken"] = lambda: False
    answer = await api.get("/livez")
    assert answer.status == 500
    lines = answer.body.decode().splitlines()
    assert "[-]broken failed: reason withheld" in lines
    assert lines[-1] == "livez check failed"
    assert (await api.get("/livez?exclude=broken")).body == b"ok"
    answer = await api.get("/livez/broken")
    assert (answer.status, answer.body) == (500, b"internal server error: broken failed\n")

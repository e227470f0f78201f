"""A server that is told to stop: every request that it took up is answered."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.api.conftest import AllowEverything, Api, HeaderAuthenticator, config_map
from tests.api.test_crash import Process, ready

from navarch.apiserver import server as server_module
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.security import Security
from navarch.apiserver.server import Server
from navarch.store.memory import open_memory_store

CM = "/api/v1/namespaces/default/configmaps"


async def started(**options: Any) -> Server:
    security = Security(HeaderAuthenticator(), AllowEverything())
    server = Server(ServerOptions(port=0, **options), open_memory_store(), security)
    await server.start()
    return server


async def test_writes_under_load_are_answered() -> None:
    """Sixteen clients write without pause while the server stops. Whatever the store has was
    answered with 201, and no connection broke with a request in it."""
    server = await started()
    answered: set[str] = set()
    broken: list[str] = []
    refused = asyncio.Event()

    async def write(client: int) -> None:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector) as session:
            api = Api(server, session)
            for number in range(100_000):
                name = f"c{client}-{number}"
                try:
                    answer = await api.post(CM, config_map(name))
                except aiohttp.ClientConnectorError:
                    refused.set()
                    return
                except aiohttp.ClientError as error:
                    broken.append(f"{name}: {error!r}")
                    return
                assert answer.status == 201
                answered.add(name)

    clients = [asyncio.create_task(write(client)) for client in range(16)]
    async with asyncio.timeout(60):
        while len(answered) < 200:  # noqa: ASYNC110 - a plain number
            await asyncio.sleep(0.01)
        kept: set[str] = set()
        cache = server.core.catalog.get("", "v1", "configmaps").cache
        original = server.store.close

        async def close() -> None:
            kept.update(entry.name for entry in cache.scan("default"))
            await original()

        server.store.close = close  # type: ignore[method-assign]
        await server.stop()
        await asyncio.gather(*clients)
    assert refused.is_set()
    assert broken == []
    assert kept == answered


async def test_a_slow_request_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await started()
    go = asyncio.Event()
    original = server.app.verbs["create"]

    async def slow(*arguments: Any) -> Any:
        await go.wait()
        return await original(*arguments)

    monkeypatch.setitem(server.app.verbs, "create", slow)
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        api = Api(server, session)
        task = asyncio.create_task(api.post(CM, config_map("x")))
        while not server.app.is_busy:  # noqa: ASYNC110 - a plain flag
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(1.5)  # connections that nobody waits for end after a second
        assert not stopping.done()
        go.set()
        answer = await task
        assert answer.status == 201
        await stopping


async def test_watches_end_as_they_should() -> None:
    """With the last chunk, not in the middle of a line, and after all that was to be said."""
    server = await started()
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        api = Api(server, session)
        async with session.get(f"{server.url}{CM}?watch=1") as response:
            for number in range(20):
                (await api.post(CM, config_map(f"x{number}"))).ok(201)
            stopping = asyncio.create_task(server.stop())
            events = [json.loads(line) async for line in response.content]
        assert [each["object"]["metadata"]["name"] for each in events] == [
            f"x{number}" for number in range(20)
        ]
        await stopping


async def test_not_ready_before_it_stops() -> None:
    """Load balancers and endpoints get time to hear of it; until then everything works."""
    server = await started(shutdown_delay_seconds=4.0)
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        api = Api(server, session)
        assert (await api.get("/readyz")).status == 200
        stopping = asyncio.create_task(server.stop())
        while (answer := await api.get("/readyz")).status == 200:
            assert not stopping.done()
        assert answer.status == 500
        assert "[-]shutdown failed: reason withheld" in answer.body.decode()
        assert (await api.get("/livez")).status == 200
        (await api.post(CM, config_map("x"))).ok(201)
        # New connections are still taken.
        async with aiohttp.ClientSession() as other:
            assert (await Api(server, other).get("/version")).status == 200
        await stopping
        with pytest.raises(aiohttp.ClientConnectorError):
            await api.get("/version")


async def test_connections_that_rest_do_not_hold_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_SECONDS", 120.0)
    server = await started()
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
    async with asyncio.timeout(60):
        await server.stop()
    for _, writer in held:
        writer.transport.abort()


async def test_a_process_that_is_told_to_end(tmp_path: Path) -> None:
    """The same with a signal, TLS and a database: the process ends well and soon, no request is
    without an answer, and after the next start all that was acknowledged is there, and no more."""
    process = Process(tmp_path)
    await process.start()
    answered: set[str] = set()
    broken: list[str] = []
    try:
        async with process.session() as session:
            await ready(session)

        async def write(client: int) -> None:
            async with process.session() as own:
                for number in range(100_000):
                    name = f"c{client}-{number}"
                    try:
                        async with own.post(CM, json=config_map(name)) as answer:
                            assert answer.status == 201
                    except aiohttp.ClientConnectorError:
                        return
                    except aiohttp.ClientError as error:
                        broken.append(f"{name}: {error!r}")
                        return
                    answered.add(name)

        async def watch() -> str:
            async with process.session() as own, own.get(f"{CM}?watch=1") as events:
                lines = [line async for line in events.content]
                return str(json.loads(lines[-1])["type"])

        clients = [asyncio.create_task(write(client)) for client in range(8)]
        watcher = asyncio.create_task(watch())
        async with asyncio.timeout(60):
            while len(answered) < 200:  # noqa: ASYNC110 - a plain number
                await asyncio.sleep(0.01)
            assert process._process is not None
            process._process.terminate()
            assert await process._process.wait() == 0
            await asyncio.gather(*clients)
            assert await watcher == "ADDED"
        assert broken == []
        await process.start()
        async with process.session() as session:
            await ready(session)
            async with session.get(CM) as answer:
                items = (await answer.json())["items"]
        names = {each["metadata"]["name"] for each in items}
        assert {each for each in names if each.startswith("c")} == answered
    finally:
        await process.kill()

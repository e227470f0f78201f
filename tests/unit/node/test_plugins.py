from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from tests.csi_driver import Registrar, Server

from navarch.client.clock import RealClock
from navarch.node import pluginregistration_pb2 as pb
from navarch.node import plugins
from navarch.node.cri.calls import Calls
from navarch.node.cri.values import RuntimeFailure
from navarch.node.plugins import PluginManager, PluginRefused


class Handler:
    """Accepts whatever is not called `bad` or `broken`."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue()
        self.refusals = 0

    def validate(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        if name == "bad":
            raise PluginRefused(f"no {','.join(versions)} here")

    async def register(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        if name == "broken" and self.refusals:
            self.refusals -= 1
            raise PluginRefused("out of order")
        self.heard.put_nowait(("register", name, endpoint))

    async def deregister(self, name: str, endpoint: str) -> None:
        self.heard.put_nowait(("deregister", name, endpoint))

    async def next(self) -> tuple[str, str, str]:
        async with asyncio.timeout(60):
            return await self.heard.get()


@pytest.fixture
def directory() -> Iterator[Path]:
    # Socket paths are limited to 107 bytes; pytest's own directories are too deep.
    with tempfile.TemporaryDirectory(prefix="nv-", dir="/tmp") as path:
        yield Path(path) / "registry"


def make_directory_with_file(path: Path) -> None:
    path.mkdir()
    (path / "a-file.sock").touch()


@asynccontextmanager
async def managed(directory: Path, handler: Handler) -> AsyncIterator[None]:
    manager = PluginManager(directory, {"CSIPlugin": handler}, RealClock())
    task = asyncio.create_task(manager.run())
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def plugin(
    path: Path, name: str = "one", *, type: str = "CSIPlugin", endpoint: str = ""
) -> Registrar:
    return Registrar(
        path,
        pb.PluginInfo(
            type=type, name=name, endpoint=endpoint, supported_versions=["1.0.0", "1.1.0"]
        ),
    )


async def test_plugins_come_and_go(directory: Path) -> None:
    handler = Handler()
    first = plugin(directory / "before.sock", "before", endpoint="/x/csi.sock")
    async with first as before, AsyncExitStack() as survivors:
        async with managed(directory, handler):
            assert await handler.next() == ("register", "before", "/x/csi.sock")
            assert (await before.status()).plugin_registered
            make_directory_with_file(directory / "deep")
            async with plugin(directory / "deep" / "later.sock", "later") as later:
                path = str(directory / "deep" / "later.sock")
                assert await handler.next() == ("register", "later", path)
                status = await later.status()
                assert (status.plugin_registered, status.error) == (True, "")
            assert await handler.next() == ("deregister", "later", path)
            await survivors.enter_async_context(plugin(Path(path), "again"))
            assert await handler.next() == ("register", "again", path)
        # The agent ends while plug-ins live: they stay what they are.
        assert handler.heard.qsize() == 0


async def test_a_socket_made_anew_is_another_plugin(directory: Path) -> None:
    handler = Handler()
    async with managed(directory, handler), plugin(directory / "a.sock", "first"):
        assert (await handler.next())[:2] == ("register", "first")
        async with plugin(directory / "a.sock", "second"):
            assert (await handler.next())[:2] == ("deregister", "first")
            assert (await handler.next())[:2] == ("register", "second")


async def test_who_is_asked_is_who_listens_now(directory: Path) -> None:
    async def name_at(path: Path) -> str:
        calls = Calls(str(path), 20)
        calls.open()
        request, method = pb.InfoRequest(), "/pluginregistration.Registration/GetInfo"
        try:
            return (await calls.call(method, request, pb.PluginInfo)).name
        finally:
            await calls.close()

    for number in range(50):
        path = directory.parent / f"{number}.sock"
        async with plugin(path, "first"):
            assert await name_at(path) == "first"
            async with plugin(path, "second"):
                assert await name_at(path) == "second"


@pytest.mark.parametrize(
    ("name", "type", "message"),
    [
        pytest.param(
            "bad",
            "CSIPlugin",
            "RegisterPlugin error -- plugin validation failed with err: no 1.0.0,1.1.0 here",
            id="invalid",
        ),
        pytest.param(
            "one",
            "SomePlugin",
            "RegisterPlugin error -- no handler registered for plugin type: SomePlugin at socket ",
            id="unknown-type",
        ),
    ],
)
async def test_refused_plugins_are_told_why(
    directory: Path, name: str, type: str, message: str
) -> None:
    handler = Handler()
    async with managed(directory, handler), plugin(directory / "a.sock", name, type=type) as one:
        status = await one.status()
        assert not status.plugin_registered
        assert status.error.startswith(message)
        assert handler.heard.qsize() == 0


async def test_failed_registrations_are_tried_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "RETRY_SECONDS", 0.05)
    handler = Handler()
    handler.refusals = 2
    async with managed(directory, handler), plugin(directory / "a.sock", "broken") as one:
        for accepted in (False, False, True):
            assert (await one.status()).plugin_registered is accepted
        assert (await handler.next())[0] == "register"


async def test_who_cannot_be_told_is_not_registered(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "RETRY_SECONDS", 0.05)
    handler = Handler()
    one = plugin(directory / "a.sock")
    one.accepts_status = False
    async with managed(directory, handler), one:
        assert (await handler.next())[0] == "register"
        assert (await handler.next())[0] == "deregister"
        one.accepts_status = True
        assert (await handler.next())[0] == "register"


async def test_an_answer_that_cannot_be_read_harms_nobody(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "RETRY_SECONDS", 0.05)
    handler = Handler()
    asked: asyncio.Queue[None] = asyncio.Queue()

    async def garbage(request: bytes, context: object) -> bytes:
        asked.put_nowait(None)
        return b"\xff\xff"

    methods = {"GetInfo": grpc.unary_unary_rpc_method_handler(garbage)}
    hostile = Server(directory / "a.sock", {"pluginregistration.Registration": methods})
    async with managed(directory, handler):
        await hostile.start()
        async with asyncio.timeout(60):
            for _ in range(2):
                await asked.get()
        async with plugin(directory / "b.sock"):
            assert (await handler.next())[:2] == ("register", "one")
        await hostile.stop()


async def test_a_hidden_socket_is_no_plugin(directory: Path) -> None:
    handler = Handler()
    hidden = Server(directory / ".hidden.sock", {})
    async with managed(directory, handler):
        await hidden.start()
        async with plugin(directory / "a.sock"):
            assert (await handler.next())[:2] == ("register", "one")
        await hidden.stop()


async def test_who_asks_a_plugin_that_goes_is_told_so_and_not_ended(directory: Path) -> None:
    """grpc cancels the calls of a channel that is closed; a task that took this for its own end
    would be lost without a word."""
    begun = asyncio.Event()

    async def never(request: bytes, context: object) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return request

    server = grpc.aio.server()
    methods = {"Ask": grpc.unary_unary_rpc_method_handler(never)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a", methods),))
    server.add_insecure_port(f"unix:{directory.parent / 'a.sock'}")
    await server.start()
    calls = Calls(str(directory.parent / "a.sock"), 60.0)
    calls.open()

    async def ask() -> RuntimeFailure:
        with pytest.raises(RuntimeFailure) as failed:
            await calls.call("/a/Ask", pb.InfoRequest(), pb.PluginInfo)
        return failed.value

    async def listen() -> RuntimeFailure:
        with pytest.raises(RuntimeFailure) as failed:
            async for _ in calls.stream("/a/Ask", pb.InfoRequest(), pb.PluginInfo):
                pass
        return failed.value

    try:
        ended = asyncio.create_task(calls.call("/a/Ask", pb.InfoRequest(), pb.PluginInfo))
        tasks = [asyncio.create_task(ask()), asyncio.create_task(listen())]
        async with asyncio.timeout(60):
            await begun.wait()
            ended.cancel()
            await asyncio.wait([ended])
            assert ended.cancelled()
            await calls.close()
            failures = [*await asyncio.gather(*tasks), await ask()]
    finally:
        await server.stop(None)
    text = "rpc error: code = Canceled desc = grpc: the client connection is closing"
    assert {each.message for each in failures} == {text}

"""A whole control plane in one thread with an event loop of its own.

The parts are those that `navarch start` runs as processes, with the options it gives them; what
differs is the store (memory), the port (any that is free) and the number of processes (none). A
thread of its own lets blocking tests and clients work against it, and keeps the test's event loop,
if there is one, for the code under test.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from navarch.cluster.profile import Paths, Profile
from navarch.testing.operations import Operations, is_open

if TYPE_CHECKING:
    from navarch.apiserver.server import Server
    from navarch.client import Client

T = TypeVar("T")
Options = Mapping[str, Any]

START_SECONDS = 120.0
STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Settings:
    """What a control plane consists of. The maps override options of the component they are named
    after, by the names of its dataclass."""

    nodes: int = 0
    server: Options = field(default_factory=dict)
    controllers: Options = field(default_factory=dict)
    scheduler: Options = field(default_factory=dict)
    simulated: Options = field(default_factory=dict)


class ControlPlane:
    """Starts, runs and stops the parts. Only `call` and `spawn` may be used from other threads."""

    def __init__(self, profile: Profile, paths: Paths, settings: Settings) -> None:
        self.profile = profile
        self._paths = paths
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Bound to the loop that first waits for them.
        self._stopping = asyncio.Event()
        self._usable = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._server: Server | None = None
        self._client: Client | None = None
        self._operations: Operations | None = None
        self._failure: BaseException | None = None
        self._nodes = 0
        self._node_tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def client(self) -> Client:
        """An administrator's client; it belongs to the control plane's own event loop."""
        assert self._client is not None
        return self._client

    @property
    def operations(self) -> Operations:
        assert self._operations is not None
        return self._operations

    def start(self) -> None:
        """Return when the cluster is usable: default service account made, nodes ready."""
        self._thread = threading.Thread(target=self._main, name=self.profile.name, daemon=True)
        self._thread.start()
        try:
            self._started.result(START_SECONDS)
        except BaseException:
            with contextlib.suppress(BaseException):
                self.stop()
            raise

    def stop(self) -> None:
        """End everything. Raises what ended a part of the control plane before its time."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None:
            # The loop may have ended by itself, which is told of below.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(STOP_SECONDS)
        if thread.is_alive():
            raise TimeoutError(f"the control plane {self.profile.name} does not stop")
        if self._failure is not None:
            raise self._failure

    def call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` in the control plane's loop."""
        if self._loop is None or self._thread is None:
            work.close()
            raise RuntimeError("the cluster does not run")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _main(self) -> None:
        # aiohttp and uvloop take a third of a second to import, so only who starts a cluster pays.
        import uvloop

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run())
        except BaseException as error:
            failure = _sole(error)
            if self._started.done():
                self._failure = failure
            else:
                self._started.set_exception(failure)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = await self._start_server()
        try:
            await self._run_components()
        finally:
            await self._server.stop()

    async def _start_server(self) -> Server:
        from navarch.apiserver.options import ServerOptions
        from navarch.apiserver.server import Server
        from navarch.cluster import composition, kubeconfig, pki
        from navarch.cluster.components import options_from
        from navarch.store import open_store

        self._paths.create()
        pki.ensure(self.profile, self._paths)
        values = {
            **composition.apiserver_options(self.profile, self._paths),
            "store": "memory",
            "bind_addresses": ("127.0.0.1",),
            "advertise_address": "",
            "port": 0,
            **self._settings.server,
        }
        server = Server(options_from(values, ServerOptions), await open_store("memory:"))
        await server.start()
        self.profile = replace(self.profile, api_port=server.port)
        kubeconfig.write_component_files(self.profile, self._paths)
        return server

    async def _run_components(self) -> None:
        from navarch.client import Client, ClientConfig
        from navarch.cluster import composition
        from navarch.cluster.components import options_from
        from navarch.controllers.manager import ManagerOptions, run

        values = {
            **composition.controllers_options(self.profile, self._paths),
            **self._settings.controllers,
        }
        manager = run(options_from(values, ManagerOptions))
        admin = ClientConfig.from_kubeconfig(self._paths.kubeconfig("admin"))
        async with Client(admin) as self._client, asyncio.TaskGroup() as self._group:
            parts = [self._group.create_task(manager, name="controllers")]
            parts.append(self._group.create_task(self._schedule(), name="scheduler"))
            if self._settings.nodes:
                self.add_nodes([f"node-{n}" for n in range(self._settings.nodes)], {})
            parts.append(self._group.create_task(self._announce(), name="readiness"))
            await self._stopping.wait()
            for part in [*parts, *self._node_tasks.values()]:
                part.cancel()

    async def _announce(self) -> None:
        """Tell the starting thread when the cluster is usable."""
        self._operations = operations = Operations(self.client)
        await operations.wait_for("serviceaccount/default", timeout=START_SECONDS)
        for number in range(self._settings.nodes):
            await operations.wait_for(f"node/node-{number}", until=is_open, timeout=START_SECONDS)
        self._started.set_result(None)
        self._usable.set()

    def add_nodes(self, names: Sequence[str], options: Options) -> None:
        """Run simulated nodes of these names. In the control plane's loop."""
        from navarch.cluster.components import options_from
        from navarch.node.simulated import SimulatedOptions, run_nodes

        assert self._group is not None
        values = {
            **self._settings.simulated,
            **options,
            "kubeconfig": "",
            "names": names,
            "first_number": self._nodes,
        }
        self._nodes += len(names)
        run = run_nodes(self.client, options_from(values, SimulatedOptions))
        task = self._group.create_task(run, name="simulated nodes")
        self._node_tasks.update(dict.fromkeys(names, task))

    async def forget_history(self) -> None:
        """Watches and lists from before now are answered with 410."""
        assert self._server is not None
        core = self._server.core
        await core.store.compact(core.hub.revision)
        for cache in core.hub.caches():
            cache.trim(math.inf)

    async def cut_connections(self) -> None:
        """Every client loses its connection, in the middle of whatever it was told."""
        assert self._server is not None
        self._server.cut_connections()

    async def stop_node(self, name: str) -> None:
        """Let a node fall silent, as if its machine had lost power."""
        task = self._node_tasks.pop(name)
        if task in self._node_tasks.values():
            raise ValueError(f"{name} was started together with other nodes")
        task.cancel()
        await asyncio.wait([task])

    async def _schedule(self) -> None:
        from navarch.cluster import composition
        from navarch.cluster.components import options_from
        from navarch.scheduler.main import SchedulerOptions, run

        # Nothing needs it before there are pods, and its arithmetic is NumPy, whose import would
        # hold up the others.
        await self._usable.wait()
        await asyncio.to_thread(importlib.import_module, "navarch.scheduler.scheduler")
        values = {**composition.scheduler_options(self._paths), **self._settings.scheduler}
        await run(options_from(values, SchedulerOptions))


def _sole(error: BaseException) -> BaseException:
    """The one error in a group of one: what the user wants to read."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error

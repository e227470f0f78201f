"""A cluster in virtual time: API server, controllers, scheduler and nodes, each a process that can
be killed and starts anew by itself."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from navarch.api.errors import ApiError
from navarch.apiserver.contracts import PeerCertificate, UserInfo
from navarch.apiserver.http.connection import FrontServer
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.server import Server
from navarch.controllers.manager import ManagerOptions, run_controllers
from navarch.node.simulated import SimulatedOptions, run_nodes
from navarch.scheduler.main import SchedulerOptions, configuration_of, run_scheduler, settings_of
from navarch.store.memory import open_memory_store

from .virtual import LoopClock
from .wire import Request, Weather, Wire, WireClient

Object = dict[str, Any]

CONTROLLERS, SCHEDULER, NODES, USER = "controllers", "scheduler", "nodes", "user"
PROCESSES = (CONTROLLERS, SCHEDULER, NODES)
RESTART_SECONDS = 3.0
NODE_NAMES = ("node-0", "node-1", "node-2", "node-3")

_CONTROLLER_OPTIONS = ManagerOptions(kubeconfig="", cluster_cidr="10.244.0.0/16")
_NODE_OPTIONS = SimulatedOptions(
    kubeconfig="",
    names=NODE_NAMES,
    zones=("a", "b"),
    heartbeat_seconds=20.0,
    timetable={"start": "0.1s-2s", "ready": "0s-3s", "stop": "0s-4s"},
    capacity={"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi", "pods": "30"},
)


class _Believer:
    """Believes whom the client says it is."""

    async def authenticate(
        self, headers: Mapping[str, str], peer: PeerCertificate | None
    ) -> UserInfo | None:
        name = headers.get("Test-User", "")
        return UserInfo(name, groups=("system:masters", "system:authenticated"))


@dataclass(slots=True)
class Process:
    """One component, with the client of its present life."""

    name: str
    work: Callable[[WireClient], Awaitable[None]]
    client: WireClient | None = None
    lives: int = 0


@dataclass(slots=True)
class World:
    """The cluster, and the user's hands in it."""

    server: Server
    wire: Wire
    user: WireClient
    processes: dict[str, Process] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """Processes that ended by themselves, which none may."""

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def kill(self, name: str, after: int = 0) -> None:
        """Kill a process, now or in the middle of what it does later."""
        client = self.processes[name].client
        if client is not None:
            if after:
                client.die_after(after)
            else:
                client.die()

    async def run_process(self, process: Process) -> None:
        """Keep a process alive."""
        while True:
            client = process.client = WireClient(self.wire, process.name)
            process.lives += 1
            life = asyncio.ensure_future(process.work(client))
            death = asyncio.ensure_future(client.died.wait())
            try:
                await asyncio.wait((life, death), return_when=asyncio.FIRST_COMPLETED)
                if life.done() and not client.died.is_set():
                    self.failures.append(f"{process.name} ended: {life.exception()!r}")
                    return
            finally:
                client.die()
                life.cancel()
                death.cancel()
                with suppress(BaseException):
                    await life
            await asyncio.sleep(RESTART_SECONDS)

    # ---- the user's hands

    async def call(
        self, method: str, path: str, body: Object | None = None, kind: str = "merge-patch"
    ) -> Object | None:
        """A request of the user's; None when it is refused, which is the user's own fault."""
        import msgspec

        content = f"application/{kind}+json" if method == "PATCH" else "application/json"
        data = None if body is None else msgspec.json.encode(body)
        try:
            answer = await self.user.request(method, path, body=data, content_type=content)
        except ApiError as error:
            if error.status >= 500 or not error.status:
                raise
            return None
        found: Object = msgspec.json.decode(answer)
        return found

    def objects(self, resource: str, group: str = "", version: str = "v1") -> list[Object]:
        """All objects of a resource as the store has them."""
        served = self.server.core.catalog.get(group, version, resource)
        return [served.decode(entry) for entry in served.cache.scan()]


def _key_file(directory: str) -> Path:
    path = Path(directory) / "sa.key"
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@asynccontextmanager
async def running_world(seed: int) -> AsyncIterator[World]:
    """A world that has settled: nodes ready, namespaces with their service accounts."""
    with tempfile.TemporaryDirectory() as directory:
        options = ServerOptions(
            port=6443,
            bind_addresses=(),
            advertise_address="127.0.0.1",
            service_account_signing_key=_key_file(directory),
        )
        server = Server(options, open_memory_store())
        server.core.registry.now = LoopClock().now
        server.core.hub.clock = LoopClock().monotonic
        await server.start()
    security = server.core.secured
    server.core.security = replace(security, authenticator=_Believer())
    for plugin in security.plugins:
        if plugin.name == "NamespaceLifecycle":
            plugin._now = LoopClock().monotonic  # type: ignore[attr-defined]
    try:
        async with _populated(server, seed) as world:
            yield world
    finally:
        await server.stop()


@asynccontextmanager
async def _populated(server: Server, seed: int) -> AsyncIterator[World]:
    requests: list[Request] = []
    front = server._front
    assert isinstance(front, FrontServer)
    wire = Wire(lambda: front, Weather(random.Random(seed)), requests)
    world = World(server, wire, WireClient(wire, USER, is_spared=True))
    settings = settings_of(configuration_of(SchedulerOptions()))

    async def schedule(client: WireClient) -> None:
        await run_scheduler(client, settings, seed)

    async def control(client: WireClient) -> None:
        await run_controllers(client, _CONTROLLER_OPTIONS)

    async def simulate(client: WireClient) -> None:
        await run_nodes(client, _NODE_OPTIONS)

    works = zip(PROCESSES, (control, schedule, simulate), strict=True)
    world.processes = {name: Process(name, work) for name, work in works}
    tasks = [
        asyncio.create_task(world.run_process(process), name=process.name)
        for process in world.processes.values()
    ]
    try:
        await asyncio.sleep(15)
        yield world
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

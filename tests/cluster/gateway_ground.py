"""An API server in this process, the gateway's controller with a real nginx, and small backends.

The API does not take addresses of 127.0.0.0/8 for endpoints, so everything has addresses that are
for tests (RFC 2544), of this process' own, which the loopback interface bears meanwhile. No Service
proxy is there: requests go where a Gateway's EndpointSlice leads to.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest_asyncio
from aiohttp import web
from tests.api.conftest import Api, secured_server
from tests.api.controllers.conftest import client_as, running
from tests.cluster.ingress_ground import Authority, new_directory
from tests.unit.network.gateways import APP, INFRA, WEB, gateway
from yarl import URL

from navarch.api.named_secrets import GATEWAY_USER
from navarch.client.clock import RealClock
from navarch.client.controller import ControllerContext
from navarch.client.informer import InformerFactory
from navarch.cluster.gateway_addon import gateway_objects
from navarch.network.gateway import CONTROLLER
from navarch.network.gateway.controller import GatewayServing
from navarch.network.nginx.process import Nginx
from navarch.network.nginx.publish import Place
from navarch.network.nginx.render import Settings

T = TypeVar("T")
Object = dict[str, Any]
NETWORK = f"198.18.{os.getpid() % 256}"
ADDRESS, HEALTH = f"{NETWORK}.1", 20264
BACKENDS = {"a": f"{NETWORK}.11", "b": f"{NETWORK}.12", "c": f"{NETWORK}.13"}
BACKEND_PORT = 20280
POOL = "203.0.113.0/26"
SECONDS = 60.0
STANDING = gateway()
GATEWAY_API = "/apis/gateway.networking.k8s.io"
COLLECTIONS = {
    "Gateway": f"{GATEWAY_API}/v1/namespaces/%s/gateways",
    "GatewayClass": f"{GATEWAY_API}/v1/gatewayclasses",
    "HTTPRoute": f"{GATEWAY_API}/v1/namespaces/%s/httproutes",
    "ReferenceGrant": f"{GATEWAY_API}/v1beta1/namespaces/%s/referencegrants",
    "Service": "/api/v1/namespaces/%s/services",
    "Secret": "/api/v1/namespaces/%s/secrets",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices",
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def seen(self) -> Any:
        """What the backend saw of the request."""
        return json.loads(self.text)

    @property
    def backend(self) -> str:
        return str(self.seen["name"]) if self.status == 200 else ""


def path_of(value: Object, named: bool = True) -> str:
    metadata = value["metadata"]
    collection = COLLECTIONS[value["kind"]]
    if "%s" in collection:
        collection %= metadata["namespace"]
    return f"{collection}/{metadata['name']}" if named else collection


def conditions(status: Object) -> dict[str, str]:
    """`{"Accepted": "True Accepted"}`."""
    return {
        each["type"]: f"{each['status']} {each['reason']}" for each in status.get("conditions", ())
    }


def bear(action: str, address: str) -> None:
    """Have the loopback interface bear an address, or no longer."""
    subprocess.run(["ip", "address", action, f"{address}/32", "dev", "lo"], check=True)


class Ground:
    """Services `a`, `b`, `c` with an endpoint each and `empty` without, in three namespaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stack = AsyncExitStack()
        self.authority = Authority.create()
        self.received: list[str] = []
        self.made: list[Object] = []

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        for address in (ADDRESS, *BACKENDS.values()):
            bear("replace", address)
            self.stack.callback(bear, "delete", address)
        self.session = await self.stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        for name, address in BACKENDS.items():
            await self._backend(name, address)
        server = await self.stack.enter_async_context(secured_server(self.directory / "api"))
        self.api = Api(server, self.session)
        for collection, value in gateway_objects():
            await self.until(functools.partial(self._apply, collection, value), "the addon")
        admin = await self.stack.enter_async_context(client_as(server, "admin", "system:masters"))
        await self._make_surroundings()
        await self.stack.enter_async_context(running(admin, "load-balancer"))
        self.client = await self.stack.enter_async_context(client_as(server, GATEWAY_USER))
        self.nginx = Nginx(
            Settings(
                directory=self.directory / "private",
                shared=self.directory / "shared",
                addresses=(ADDRESS,),
                health_port=HEALTH,
                access_log=str(self.directory / "access.log"),
            ),
            RealClock(),
        )
        self.stack.push_async_callback(self.nginx.stop)
        self.stack.push_async_callback(self.end)
        self.begin()

    def begin(self) -> None:
        """Run the controller."""
        self.context = ControllerContext(
            self.client, InformerFactory(self.client), RealClock(), "n1"
        )
        controller = GatewayServing(self.context, self.nginx, Place("n1", (ADDRESS,)))
        self.task = asyncio.create_task(controller.run())

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.context.close()

    async def stop(self) -> None:
        await self.stack.aclose()

    async def _apply(self, collection: str, value: Object) -> bool:
        path = f"{collection}/{value['metadata']['name']}?fieldManager=test&force=true"
        answer = await self.admin("PATCH", path, value, content_type="application/apply-patch+yaml")
        return bool(answer.status < 300)

    async def _make_surroundings(self) -> None:
        pool = {"config": f"address-pools: [{{name: p, protocol: layer2, addresses: [{POOL}]}}]"}
        await self.create(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "metallb", "namespace": "kube-system"},
                "data": pool,
            },
            "/api/v1/namespaces/kube-system/configmaps",
        )
        for namespace in (INFRA, APP, WEB):
            await self.create(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": namespace, "labels": {"team": namespace}},
                },
                "/api/v1/namespaces",
            )
            for name in (*BACKENDS, "empty"):
                await self.make_service(namespace, name, {"name": "http", "port": 80})
        headless = {"name": "http", "port": 80, "targetPort": BACKEND_PORT}
        await self.make_service(INFRA, "headless", headless, clusterIP="None")
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
        await self.create(node, "/api/v1/nodes")
        await self.create(STANDING)
        self.made.clear()

    async def make_service(self, namespace: str, name: str, port: Object, **spec: Any) -> None:
        """With an endpoint: the backend of that name, else `a`'s address."""
        backend_port = spec.pop("backend_port", BACKEND_PORT)
        await self.create(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"ports": [port], **spec},
            }
        )
        if name == "empty":
            return
        await self.create(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-1",
                    "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": backend_port, "protocol": "TCP"}],
                "endpoints": [{"addresses": [BACKENDS.get(name, BACKENDS["a"])]}],
            }
        )

    # -- backends -----------------------------------------------------------------------------

    async def _backend(self, name: str, address: str) -> None:
        app = web.Application()
        app.router.add_route("*", r"/{rest:[\s\S]*}", functools.partial(self._answer, name))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, address, BACKEND_PORT).start()

    async def _answer(self, name: str, request: web.Request) -> web.StreamResponse:
        self.received.append(f"{name} {request.raw_path}")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(f"{name}: {message.data}")
            return socket
        if delay := request.query.get("delay"):
            await asyncio.sleep(float(delay))
        if pause := request.query.get("pause"):
            # An answer that is never silent for longer, and takes ten times as long.
            trickle = web.StreamResponse()
            await trickle.prepare(request)
            for _ in range(10):
                await trickle.write(b".")
                await asyncio.sleep(float(pause))
            return trickle
        seen = {
            "name": name,
            "path": request.raw_path,
            "headers": {key.lower(): value for key, value in request.headers.items()},
        }
        return web.json_response(seen, headers={"X-Backend": name, "X-Other": "untouched"})

    # -- the API ------------------------------------------------------------------------------

    async def admin(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        return await self.api.request(
            method, path, body, user="admin", groups="system:masters", **options
        )

    async def create(self, value: Object, collection: str = "") -> Object:
        found: Object = (
            await self.admin("POST", collection or path_of(value, named=False), value)
        ).ok()
        self.made.append(found)
        return found

    async def make(self, *values: Object) -> None:
        """Objects that are gone after the test. The Gateway `gateway` stands all the time and gets
        another spec, which spares nginx a reload for most tests."""
        for value in values:
            if path_of(value) == path_of(STANDING):
                patch = [{"op": "replace", "path": "/spec", "value": value["spec"]}]
                kind = "application/json-patch+json"
                (await self.admin("PATCH", path_of(value), patch, content_type=kind)).ok()
            else:
                await self.create(value)

    async def clear(self) -> None:
        made, self.made = self.made, []
        for value in reversed(made):
            await self.admin("DELETE", path_of(value))
        await self.make(STANDING)

    async def read(self, value: Object) -> Object:
        found: Object = (await self.admin("GET", path_of(value))).ok()
        return found

    async def change(self, value: Object, spec: Object) -> Object:
        found: Object = (
            await self.admin(
                "PATCH", path_of(value), {"spec": spec}, content_type="application/merge-patch+json"
            )
        ).ok()
        return found

    async def until(self, check: Callable[[], Awaitable[T]], what: str) -> T:
        """The first true answer; an AssertionError means not yet."""
        last: object = None
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    if self_task := getattr(self, "task", None):
                        assert not self_task.done() or self_task.result()
                    try:
                        if last := await check():
                            return last
                    except AssertionError as error:
                        last = error
                    await asyncio.sleep(0.03)
        except TimeoutError:
            raise AssertionError(f"{what}: {last}") from None

    async def settled(self, value: Object) -> Object:
        """An object once its status is about its present generation. Every condition is."""

        async def check() -> Object:
            found = await self.read(value)
            status = found.get("status") or {}
            parents = [
                each for each in status.get("parents", ()) if each["controllerName"] == CONTROLLER
            ]
            places = [status, *status.get("listeners", ()), *parents]
            every = [each for place in places for each in place.get("conditions", ())]
            generation = found["metadata"]["generation"]
            assert every and all(each.get("observedGeneration") == generation for each in every)
            return found

        return await self.until(check, f"the status of {path_of(value)}")

    async def expect(
        self, value: Object, wanted: Mapping[str, str], *, listener: str = "", parent: int = 0
    ) -> Object:
        """Wait for conditions of a Gateway, of one of its listeners, or of a route."""

        async def check() -> Object:
            found = await self.settled(value)
            status = found["status"]
            if value["kind"] == "HTTPRoute":
                assert len(status["parents"]) > parent
                status = status["parents"][parent]
            if listener:
                status = next(each for each in status["listeners"] if each["name"] == listener)
            present = conditions(status)
            assert wanted.items() <= present.items(), present
            result: Object = status
            return result

        return await self.until(check, f"conditions of {path_of(value)}")

    async def programmed(self, *gateways: Object) -> None:
        for each in gateways:
            await self.expect(each, {"Accepted": "True Accepted", "Programmed": "True Programmed"})

    async def secret(self, name: str, host: str, namespace: str = INFRA) -> Object:
        chain, key = self.authority.issue(host)
        return await self.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/tls",
                "metadata": {"name": name, "namespace": namespace},
                "data": {
                    "tls.crt": base64.b64encode(chain.encode()).decode(),
                    "tls.key": base64.b64encode(key.encode()).decode(),
                },
            }
        )

    # -- requests -----------------------------------------------------------------------------

    async def port(self, name: str = "gateway", port: int = 80) -> int:
        """Where nginx listens for a port of a Gateway."""
        path = f"{COLLECTIONS['EndpointSlice'] % INFRA}/{name}-navarch-ipv4-n1"

        async def check() -> int:
            answer = await self.admin("GET", path)
            assert answer.status == 200
            ports = {each["name"]: each["port"] for each in answer.json["ports"]}
            return int(ports[f"port-{port}"]) if f"port-{port}" in ports else 0

        return await self.until(check, f"endpoints of {name}")

    async def ask(
        self,
        path: str = "/",
        host: str = "example.com",
        *,
        gateway: str = "gateway",
        port: int = 80,
        tls: str = "",
        **options: Any,
    ) -> Answer:
        """`tls` is the name of the handshake."""
        number = await self.port(gateway, port)
        url = URL(f"{'https' if tls else 'http'}://{ADDRESS}:{number}{path}", encoded=True)
        headers = {"Host": host, **options.pop("headers", {})}
        if tls:
            trusting = ssl.create_default_context(cadata=self.authority.chain)
            trusting.check_hostname = False
            options.update(ssl=trusting, server_hostname=tls)
        method = options.pop("method", "GET")
        async with self.session.request(
            method, url, headers=headers, allow_redirects=False, **options
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    async def answers(self, expected: Sequence[tuple[Object, object]]) -> None:
        """Ask until all of the requests (arguments of `ask`) are answered so: by a backend's name
        or with a status."""

        async def check() -> bool:
            for request, wanted in expected:
                try:
                    answer = await self.ask(**request)
                except aiohttp.ClientConnectionError as error:
                    raise AssertionError(str(error)) from error
                got = answer.backend if isinstance(wanted, str) else answer.status
                assert got == wanted, f"{request}: {got} and not {wanted}: {answer.text[:200]}"
            return True

        await self.until(check, "answers")


Story = Callable[[Ground], Awaitable[None]]


class Stories(dict[str, Story]):
    """Tests by the names of the conformance tests that assert the same."""

    def __call__(self, name: str) -> Callable[[Story], Story]:
        def note(function: Story) -> Story:
            self[name] = function
            return function

        return note


HTTP_ROUTE = [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]
REFUSED = {"ResolvedRefs": "False RefNotPermitted"}
SERVED = {"Accepted": "True Accepted", "ResolvedRefs": "True ResolvedRefs"}


def filtered(kind: str, **fields: Any) -> dict[str, Any]:
    name = {"URLRewrite": "urlRewrite", "CORS": "cors"}.get(kind, kind[0].lower() + kind[1:])
    return {"type": kind, name: fields}


def pairs(**headers: str) -> list[dict[str, str]]:
    return [{"name": name.replace("_", "-"), "value": text} for name, text in headers.items()]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Ground]:
    directory = new_directory()
    (directory / "api").mkdir()
    ground = Ground(directory)
    try:
        await ground.start()
        yield ground
    finally:
        await ground.stop()
        shutil.rmtree(directory)


@pytest_asyncio.fixture(loop_scope="module")
async def ground(shared: Ground) -> AsyncIterator[Ground]:
    try:
        yield shared
    finally:
        await shared.clear()

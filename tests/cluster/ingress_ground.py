"""A real nginx on loopback addresses, small backends, and Ingresses given to it without an API."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.unit.network.ingresses import secret, service, slice_of

from navarch.api.types.core_v1 import Secret
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.networking_v1 import Ingress
from navarch.client.clock import RealClock
from navarch.network.ingress.routes import Surroundings
from navarch.network.ingress.translate import Ports, Translation, translate
from navarch.network.nginx.backends import Services
from navarch.network.nginx.process import PROGRAM, Nginx
from navarch.network.nginx.render import Settings

ADDRESS = "127.0.7.1"
HTTP, HTTPS, HEALTH = 20080, 20443, 20254
PORTS = Ports(HTTP, HTTPS, 80, 443)


@dataclass(frozen=True)
class Authority:
    """Signs certificates for the tests."""

    key: ec.EllipticCurvePrivateKey
    chain: str

    @staticmethod
    def create() -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return Authority(key, _certificate("Test authority", key, key, "Test authority"))

    def issue(self, name: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return _certificate(name, key, self.key, "Test authority"), pem.decode()

    def secret(self, name: str, host: str) -> Secret:
        chain, key = self.issue(host)
        return secret(name, tls__crt=chain, tls__key=key, ca__crt=self.chain)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, issuer: str
) -> str:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=key is signer, path_length=None), critical=True)
    )
    if "." in name:
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str
    cookies: Mapping[str, str] = field(default_factory=dict)

    @property
    def seen(self) -> Any:
        """What the backend saw of the request."""
        return msgspec.json.decode(self.text)


class Ground:
    """Services `a`, `b` (one endpoint each), `both` (their two), `empty`; and nginx."""

    def __init__(self, directory: Path, address: str = ADDRESS) -> None:
        self.address = address
        settings = Settings(
            directory=directory / "private",
            shared=directory / "shared",
            addresses=(ADDRESS,),
            health_port=HEALTH,
            resolvers=(ADDRESS,),
            access_log=str(directory / "access.log"),
        )
        self.directory = directory
        self.nginx = Nginx(settings, RealClock())
        self.services = {each: service(each) for each in ("a", "b", "both", "empty", "auth")}
        self.slices: dict[str, list[EndpointSlice]] = {}
        self.secrets: dict[str, Secret] = {}
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.authority = Authority.create()
        self.received: list[str] = []
        self.arrived = asyncio.Event()
        self.stack = AsyncExitStack()
        self.ports: dict[str, int] = {}
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        await self.start_backends()
        await self.nginx.start(self.translated().plane)

    async def start_backends(self, *more: tuple[str, str]) -> None:
        for name, address in (
            ("a", "127.0.7.11"),
            ("b", "127.0.7.12"),
            ("auth", "127.0.7.13"),
            *more,
        ):
            self.ports[name] = await self._backend(name, address)
        self.slices = {
            "a": [slice_of(f"127.0.7.11:{self.ports['a']}")],
            "b": [slice_of(f"127.0.7.12:{self.ports['a']}")],
            "both": [slice_of(f"127.0.7.11:{self.ports['a']}", f"127.0.7.12:{self.ports['a']}")],
            "auth": [slice_of(f"127.0.7.13:{self.ports['a']}")],
        }
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())

    async def stop(self) -> None:
        await self.nginx.stop()
        await self.stop_backends()

    async def stop_backends(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self.stack.aclose()

    async def _backend(self, name: str, address: str) -> int:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", r"/{rest:[\s\S]*}", functools.partial(self._answer, name))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, address, self.ports.get("a", 0))
        await site.start()
        assert site._server is not None
        return int(site._server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]

    async def _answer(self, name: str, request: web.Request) -> web.Response:
        self.received.append(f"{name} {request.method} {request.raw_path}")
        self.arrived.set()
        headers = {key.lower(): value for key, value in request.headers.items()}
        if "authenticate" in request.path:
            good = headers.get("authorization") == "Bearer good"
            return web.Response(
                status=200 if good else 401, headers={"X-Auth-User": "ada", "X-Other": "no"}
            )
        if "x-code" in headers and name == "b":
            return web.Response(status=int(headers["x-code"]), text="the error page")
        if delay := request.query.get("sleep"):
            await asyncio.sleep(float(delay))
        body = await request.read()
        status = int(request.query.get("status", "200"))
        seen = {
            "name": name,
            "method": request.method,
            "path": request.raw_path,
            "headers": headers,
            "length": len(body),
        }
        return web.json_response(seen, status=status, headers={"X-Backend": name})

    async def until_received(self, count: int) -> None:
        """Until backends have been asked so often."""
        async with asyncio.timeout(60):
            while len(self.received) < count:
                self.arrived.clear()
                await self.arrived.wait()

    def translated(self, *ingresses: Ingress) -> Translation:
        around = Surroundings(
            Services(
                lambda key: self.services.get(key.partition("/")[2]),
                lambda key: self.slices.get(key.partition("/")[2], []),
                self.addresses,
            ),
            lambda key: self.secrets.get(key.partition("/")[2]),
        )
        return translate(ingresses, around, PORTS)

    async def serve(self, *ingresses: Ingress) -> list[str]:
        """Serve exactly these; answers what their owners are told."""
        translation = self.translated(*ingresses)
        await self.nginx.apply(translation.plane)
        return [f"{each.reason}: {each.message}" for each in translation.problems]

    async def ask(
        self,
        path: str = "/",
        host: str = "web.example",
        *,
        method: str = "GET",
        tls: ssl.SSLContext | None = None,
        source: str = "",
        **options: Any,
    ) -> Answer:
        assert self._session is not None
        port = HTTPS if tls is not None else HTTP
        url = f"{'https' if tls is not None else 'http'}://{self.address}:{port}{path}"
        headers = {"Host": host, **options.pop("headers", {})}
        if tls is not None:
            options.update(ssl=tls, server_hostname=host)
        async with AsyncExitStack() as stack:
            session = self._session
            if source:
                connector = aiohttp.TCPConnector(local_addr=(source, 0))
                session = await stack.enter_async_context(
                    aiohttp.ClientSession(connector=connector)
                )
            async with session.request(
                method, _raw(url), headers=headers, allow_redirects=False, **options
            ) as answer:
                cookies = {name: each.OutputString() for name, each in answer.cookies.items()}
                return Answer(answer.status, answer.headers, await answer.text(), cookies)

    async def names(self, count: int, path: str = "/", **options: Any) -> list[str]:
        """Which backends answer so many requests."""
        return [(await self.ask(path, **options)).seen["name"] for _ in range(count)]

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.chain)


def _raw(url: str) -> Any:
    from yarl import URL

    return URL(url, encoded=True)


def new_directory() -> Path:
    """One that nginx's workers may pass through, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="ingress-"))
    directory.chmod(0o711)
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ingress_ground() -> AsyncIterator[Ground]:
    """Import it as `ground` into a module, whose tests then share an nginx."""
    directory = new_directory()
    found = Ground(directory)
    try:
        await found.start()
        yield found
    finally:
        await found.stop()
        shutil.rmtree(directory)


marks = [
    pytest.mark.cluster,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="nginx changes its user"),
    pytest.mark.skipif(not Path(PROGRAM).exists(), reason="nginx is not installed"),
]

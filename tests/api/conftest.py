"""An API server in this process, spoken to over HTTP.

`api` is a small client of it. By default the anonymous user may do everything; a request with
`user="name"` (and `groups=...`) is made as that user, and what the user may do is up to the
authorizer of the fixture that the test chose.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from yarl import URL

from navarch.apiserver.contracts import (
    Attributes,
    Authenticator,
    Decision,
    PeerCertificate,
    UserInfo,
)
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.security import Security
from navarch.apiserver.server import Server
from navarch.store.memory import open_memory_store

Object = dict[str, Any]

STREAMED_BYTES = 1 << 20
"""The client warns of bigger bodies that are given to it in one piece."""


class HeaderAuthenticator:
    """Believes whom the client says it is."""

    async def authenticate(
        self, headers: Mapping[str, str], peer: PeerCertificate | None
    ) -> UserInfo | None:
        name = headers.get("Test-User")
        if name is None:
            return None
        groups = tuple(filter(None, headers.get("Test-Groups", "").split(",")))
        return UserInfo(name, groups=(*groups, "system:authenticated"))


class AlsoHeaders(HeaderAuthenticator):
    """The real authenticator, and for the tests whoever a header names."""

    def __init__(self, real: Authenticator) -> None:
        self.real = real

    async def authenticate(
        self, headers: Mapping[str, str], peer: PeerCertificate | None
    ) -> UserInfo | None:
        named = await super().authenticate(headers, peer)
        return named or await self.real.authenticate(headers, peer)


class AllowEverything:
    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        return Decision.ALLOW, ""


@dataclass
class Answer:
    """A response that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def ok(self, status: int = 0) -> Any:
        """The decoded body of a success."""
        assert self.status == status if status else self.status < 300, self.body.decode()
        return self.json


class Api:
    """A client of the server under test."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        user: str = "",
        groups: str = "",
    ) -> Answer:
        sent = dict(headers or {})
        data: bytes | io.BytesIO | None = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", content_type)
            if len(data) > STREAMED_BYTES:
                data = io.BytesIO(data)
        if user:
            sent |= {"Test-User": user, "Test-Groups": groups}
        url = URL(self.server.url + path, encoded=True)
        async with self.session.request(
            method,
            url,
            data=data,
            headers=sent,
            allow_redirects=False,
            skip_auto_headers=["Accept"],
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any, **options: Any) -> Answer:
        return await self.request("POST", path, body, **options)

    async def put(self, path: str, body: Any, **options: Any) -> Answer:
        return await self.request("PUT", path, body, **options)

    async def delete(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.request("DELETE", path, body, **options)

    async def patch(self, path: str, body: Any, kind: str = "merge", **options: Any) -> Answer:
        media_type = {
            "merge": "application/merge-patch+json",
            "json": "application/json-patch+json",
            "strategic": "application/strategic-merge-patch+json",
            "apply": "application/apply-patch+yaml",
        }[kind]
        return await self.request("PATCH", path, body, content_type=media_type, **options)

    @asynccontextmanager
    async def watch(self, path: str, **options: Any) -> AsyncIterator[AsyncIterator[Object]]:
        """The events of a watch, one by one."""
        url = URL(self.server.url + path, encoded=True)
        async with self.session.get(url, **options) as response:
            assert response.status == 200, await response.text()

            async def events() -> AsyncIterator[Object]:
                async for line in response.content:
                    yield json.loads(line)

            yield events()


class Admin(Api):
    """Makes every request as a cluster administrator, unless told otherwise."""

    async def request(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        options.setdefault("user", "admin")
        options.setdefault("groups", "system:masters")
        return await super().request(method, path, body, **options)


@asynccontextmanager
async def running_server(
    security: Security | None = None, options: ServerOptions | None = None
) -> AsyncIterator[Server]:
    """A server on a free port over a fresh memory store."""
    security = security or Security(HeaderAuthenticator(), AllowEverything())
    server = Server(options or ServerOptions(port=0), open_memory_store(), security)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def secured_options(directory: Path) -> ServerOptions:
    """Options for real security; a key goes into the directory."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = directory / "sa.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return ServerOptions(port=0, service_account_signing_key=path)


@asynccontextmanager
async def secured_server(
    directory: Path, options: ServerOptions | None = None
) -> AsyncIterator[Server]:
    """A server with the real authentication, authorization and admission. Users named by a header
    are believed here as well."""
    server = Server(options or secured_options(directory), open_memory_store())
    await server.start()
    security = server.core.secured
    authenticator = AlsoHeaders(security.authenticator)
    server.core.security = replace(security, authenticator=authenticator)
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def api_server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """A server that lets everybody do everything, or the one with real security where a test or its
    module is marked `secured`."""
    secured = request.node.get_closest_marker("secured")
    async with secured_server(tmp_path) if secured else running_server() as server:
        yield server


@pytest.fixture
async def api(api_server: Server) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(api_server, session)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server with real security for all tests of a module, which must not be in each other's
    way. Its tests run in the module's loop."""
    async with (
        secured_server(tmp_path_factory.mktemp("shared")) as server,
        aiohttp.ClientSession() as session,
    ):
        yield Api(server, session)


def config_map(name: str, namespace: str = "default", **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }

"""What a component tells of itself, and to whom."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from tests.api.conftest import secured_server
from tests.api.controllers.conftest import client_as, eventually
from tests.api.webhook_server import certificates

from navarch.api.types.authentication_v1 import TokenRequest, TokenRequestSpec
from navarch.api.types.core_v1 import ServiceAccount
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.rbac_v1 import ClusterRoleBinding, RoleRef, Subject
from navarch.client import Client
from navarch.client.serving import ServingOptions, Told, serving

Ask = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[tuple[Client, Client]]:
    async with (
        secured_server(tmp_path) as server,
        client_as(server, "root", "system:masters") as admin,
        client_as(server, "system:kube-scheduler") as scheduler,
    ):
        yield admin, scheduler


@pytest.fixture
async def ask(admin: tuple[Client, Client], tmp_path: Path) -> AsyncIterator[Ask]:
    certificates(tmp_path, "127.0.0.1")
    file = str(tmp_path / "127.0.0.1.pem")
    options = ServingOptions(-1, "127.0.0.1", file, file)
    told = Told(
        "x.config", lambda: {"parallelism": 16}, {"disk": lambda: False}, {"sync": lambda: False}
    )
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with (
        serving(admin[1], options, told) as port,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
    ):

        async def get(path: str, token: str = "") -> tuple[int, str]:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            url = f"https://127.0.0.1:{port}{path}"
            async with session.get(url, headers=headers) as response:
                return response.status, await response.text()

        yield get


async def token_of(admin: Client, name: str) -> str:
    account = ServiceAccount(metadata=ObjectMeta(name=name, namespace="default"))
    await admin.resource(ServiceAccount).create(account)
    request = TokenRequest(spec=TokenRequestSpec(expirationSeconds=3600))
    accounts = admin.resource(ServiceAccount)
    made = await accounts.post_subresource(name, "default", "token", request)
    return str(json.loads(made)["status"]["token"])


async def test_health_is_for_everybody(ask: Ask) -> None:
    status, text = await ask("/healthz")
    assert status == 500 and "[-]disk failed: reason withheld" in text
    assert await ask("/livez?exclude=disk") == (200, "ok")
    status, text = await ask("/readyz?exclude=disk")
    assert status == 500 and "[-]sync failed: reason withheld" in text
    assert (await ask("/readyz/sync"))[0] == 500
    assert (await ask("/livez/sync"))[0] == 404
    assert (await ask("/livez/ping"))[0] == 200


async def test_the_rest_is_for_those_who_may(ask: Ask, admin: tuple[Client, Client]) -> None:
    status, text = await ask("/metrics")
    assert status == 403
    assert 'forbidden: User \\"system:anonymous\\" cannot get path \\"/metrics\\"' in text
    assert (await ask("/metrics", "nonsense"))[0] == 401
    token = await token_of(admin[0], "prometheus")
    assert (await ask("/metrics", token))[0] == 403
    binding = ClusterRoleBinding(
        metadata=ObjectMeta(name="monitoring"),
        roleRef=RoleRef(
            apiGroup="rbac.authorization.k8s.io", kind="ClusterRole", name="system:monitoring"
        ),
        subjects=[Subject(kind="ServiceAccount", name="prometheus", namespace="default")],
    )
    await admin[0].resource(ClusterRoleBinding).create(binding)

    async def is_told() -> bool:
        status, text = await ask("/metrics", token)
        return status == 200 and "# TYPE" in text

    await eventually(is_told, "the right")
    assert (await ask("/configz", token))[0] == 403


async def test_a_port_needs_a_certificate(admin: tuple[Client, Client]) -> None:
    with pytest.raises(ValueError, match="needs a certificate"):
        async with serving(admin[1], ServingOptions(10259), Told()):
            pass


async def test_a_question_that_waits_for_a_silent_server_keeps_nobody_from_ending(
    tmp_path: Path,
) -> None:
    begun = asyncio.Event()

    class Silent:
        async def create(self, review: object) -> None:
            begun.set()
            await asyncio.Event().wait()

    client = cast("Client", SimpleNamespace(resource=lambda kind: Silent()))
    certificates(tmp_path, "127.0.0.1")
    file = str(tmp_path / "127.0.0.1.pem")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        async with asyncio.timeout(60):
            async with serving(client, ServingOptions(-1, "127.0.0.1", file, file), Told()) as port:
                asking = asyncio.create_task(session.get(f"https://127.0.0.1:{port}/metrics"))
                await begun.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

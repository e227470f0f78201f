"""Admission webhooks: outsiders who are asked about writes, over real HTTPS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.api.conftest import Api, config_map, secured_server
from tests.api.webhook_server import WebhookServer, add, deny, patch, webhook_server

Object = dict[str, Any]
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
GROUP = "/apis/admissionregistration.k8s.io/v1"


class Admin(Api):
    """A client who may do everything."""

    async def request(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        options.setdefault("user", "admin")
        options.setdefault("groups", "system:masters")
        return await super().request(method, path, body, **options)


@pytest.fixture
async def webhooks(tmp_path: Path) -> AsyncIterator[WebhookServer]:
    async with webhook_server(tmp_path) as server:
        yield server


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Admin]:
    async with secured_server(tmp_path) as server, aiohttp.ClientSession() as session:
        api = Admin(server, session)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        await api.post("/api/v1/namespaces/default/serviceaccounts", account)
        yield api


def rule(resources: str, *operations: str, **more: Any) -> Object:
    group, _, names = resources.rpartition(":")
    return {
        "apiGroups": [group],
        "apiVersions": ["*"],
        "resources": names.split(","),
        "operations": list(operations or ("CREATE",)),
        **more,
    }


def hook(name: str, client: Object, *rules: Object, **more: Any) -> Object:
    return {
        "name": f"{name}.example.com",
        "clientConfig": client,
        "rules": list(rules),
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **more,
    }


async def register(api: Api, kind: str, name: str, *hooks: Object) -> Object:
    """Make a configuration; `kind` is Mutating or Validating."""
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": list(hooks),
    }
    answer = await api.post(f"{GROUP}/{kind.lower()}webhookconfigurations", body)
    made: Object = answer.ok(201)
    return made


def pod(name: str, **metadata: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **metadata},
        "spec": {"containers": [{"name": "c", "image": "registry.example/pause"}]},
    }


async def test_a_denial_tells_who_and_why(api: Admin, webhooks: WebhookServer) -> None:
    webhooks.answers["/deny"] = deny("no", code=418, reason="Teapot")
    await register(
        api, "Validating", "a", hook("deny", webhooks.client("/deny"), rule(":configmaps"))
    )
    answer = await api.post(MAPS, config_map("a"))
    assert answer.status == 418, answer.body
    status = answer.json
    assert status["message"] == 'admission webhook "deny.example.com" denied the request: no'
    assert status["reason"] == "Teapot"


async def test_mutations_are_stored_with_defaults(api: Admin, webhooks: WebhookServer) -> None:
    container = {"name": "init", "image": "registry.example/init"}
    webhooks.answers["/pods"] = patch(add("/spec/initContainers", [container]))
    await register(api, "Mutating", "a", hook("add", webhooks.client("/pods"), rule(":pods")))
    made = (await api.post(PODS, pod("a"))).ok(201)
    [init] = made["spec"]["initContainers"]
    assert init["terminationMessagePolicy"] == "File"
    assert webhooks.requests("/pods")[0]["object"]["metadata"].get("uid") is None
    assert made["metadata"]["uid"]

"""A server with admission webhooks: outsiders who are asked about writes, over real HTTPS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.api.conftest import Admin, Api, secured_server
from tests.api.webhook_server import WebhookServer, webhook_server

Object = dict[str, Any]
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
GROUP = "/apis/admissionregistration.k8s.io/v1"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/example.com/{}/namespaces/default/widgets"
PREFIX = "AdmissionWebhook [Privileged:ClusterAdmin] "


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
    """A rule for `group:resource,resource`."""
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


def configuration(kind: str, name: str, *hooks: Object, **labels: str) -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": name, "labels": labels},
        "webhooks": list(hooks),
    }


def configurations(kind: str) -> str:
    return f"{GROUP}/{kind.lower()}webhookconfigurations"


async def register(api: Api, kind: str, name: str, *hooks: Object, **labels: str) -> Object:
    """Make a configuration; `kind` is Mutating or Validating."""
    body = configuration(kind, name, *hooks, **labels)
    made: Object = (await api.post(configurations(kind), body)).ok(201)
    return made


def pod(name: str, **metadata: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **metadata},
        "spec": {"containers": [{"name": "c", "image": "registry.example/pause"}]},
    }


async def define_widgets(api: Api, storage: str = "v1", *fields: str) -> None:
    """A custom resource in v1 and v2; without fields it keeps everything."""
    kept: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if fields:
        properties = {name: {"type": "string"} for name in fields}
        kept = {"type": "object", "properties": properties}
    schema = {"type": "object", "properties": {"data": kept}}
    versions = [
        {
            "name": name,
            "served": True,
            "storage": name == storage,
            "schema": {"openAPIV3Schema": schema},
        }
        for name in ("v1", "v2")
    ]
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget"}
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": versions}
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": spec,
    }
    path = f"{CRDS}/widgets.example.com"
    if (await api.get(path)).status == 404:
        (await api.post(CRDS, body)).ok(201)
    else:
        (await api.patch(path, {"spec": {"versions": versions}})).ok(200)

    def is_served() -> bool:
        resource = api.server.core.catalog.find("example.com", "v1", "widgets")
        return resource is not None and resource.stored.version == storage

    async with asyncio.timeout(60):
        while not is_served():  # noqa: ASYNC110 - the server follows its definitions by itself
            await asyncio.sleep(0.01)


def widget(name: str, version: str = "v1", **data: str) -> Object:
    return {
        "apiVersion": f"example.com/{version}",
        "kind": "Widget",
        "metadata": {"name": name},
        "data": data,
    }


async def hanging(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError

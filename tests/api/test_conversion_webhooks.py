"""Custom resources whose versions a webhook converts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.api.conftest import Api, running_server
from tests.api.webhook_server import WebhookServer, webhook_server

Object = dict[str, Any]
GROUP = "stable.example.com"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAME = f"hosts.{GROUP}"


def things(version: str, namespace: str = "default") -> str:
    return f"/apis/{GROUP}/{version}/namespaces/{namespace}/hosts"


def schema(*fields: str) -> Object:
    properties: Object = {name: {"type": "string"} for name in fields}
    return {"openAPIV3Schema": {"type": "object", "properties": properties}}


def definition(conversion: Object, storage: str = "v1") -> Object:
    """v1 has one field for what v2 has two for."""
    versions: list[Object] = [
        {
            "name": "v1",
            "schema": schema("hostPort"),
            "selectableFields": [{"jsonPath": ".hostPort"}],
        },
        {
            "name": "v2",
            "schema": schema("host", "port"),
            "selectableFields": [{"jsonPath": ".host"}, {"jsonPath": ".port"}],
        },
    ]
    for version in versions:
        version |= {"served": True, "storage": version["name"] == storage}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "plural": "hosts",
                "singular": "host",
                "kind": "Host",
                "listKind": "HostList",
            },
            "versions": versions,
            "conversion": conversion,
        },
    }


def convert(obj: Object, version: str) -> Object:
    """What the conversion webhook of the official tests does."""
    result = {**obj, "apiVersion": version}
    if version.endswith("/v2") and "hostPort" in obj:
        host, _, port = result.pop("hostPort").partition(":")
        result |= {"host": host, "port": port}
    elif version.endswith("/v1") and "host" in obj:
        result["hostPort"] = f"{result.pop('host')}:{result.pop('port')}"
    return result


class Converter:
    """The webhook: counts what it is asked, and answers what a test wants."""

    def __init__(self, server: WebhookServer) -> None:
        self.server = server
        self.batches: list[list[Object]] = []
        self.change: Callable[[Object], Object] = lambda obj: obj
        self.response: Callable[[Object], Object] = lambda response: response
        self.blocked: asyncio.Event | None = None
        server.handlers["/convert"] = self.handle

    async def handle(self, request: web.Request) -> web.StreamResponse:
        review = await request.json()
        if self.blocked is not None:
            await self.blocked.wait()
        asked = review["request"]
        self.batches.append(asked["objects"])
        version = asked["desiredAPIVersion"]
        response = {
            "uid": asked["uid"],
            "convertedObjects": [self.change(convert(obj, version)) for obj in asked["objects"]],
            "result": {"status": "Success"},
        }
        answer = {key: review[key] for key in ("apiVersion", "kind")}
        return web.json_response(self.response({**answer, "response": response}))

    def spec(self, *versions: str) -> Object:
        return {
            "strategy": "Webhook",
            "webhook": {
                "clientConfig": self.server.client("/convert"),
                "conversionReviewVersions": list(versions or ("v1", "v1beta1")),
            },
        }


@pytest.fixture
async def converter(tmp_path: Path) -> AsyncIterator[Converter]:
    async with webhook_server(tmp_path) as server:
        yield Converter(server)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_server() as server, aiohttp.ClientSession() as session:
        yield Api(server, session)


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await check():  # noqa: ASYNC110 - what changes is on the other side of HTTP
            await asyncio.sleep(0.01)


async def define(api: Api, conversion: Object, storage: str = "v1") -> None:
    (await api.post(CRDS, definition(conversion, storage))).ok(201)

    async def is_served() -> bool:
        return (await api.get(things("v1"))).status == 200

    await until(is_served)


async def change_storage(api: Api, conversion: Object, storage: str) -> None:
    body = {"spec": {"versions": definition(conversion, storage)["spec"]["versions"]}}
    (await api.patch(f"{CRDS}/{NAME}", body)).ok(200)

    async def is_stored() -> bool:
        crd = (await api.get(f"{CRDS}/{NAME}")).ok()
        resource = api.server.core.catalog.get(GROUP, storage, "hosts")
        is_served = resource.stored.version == storage
        return storage in crd["status"]["storedVersions"] and is_served

    await until(is_stored)


def host(name: str, version: str = "v1", **fields: str) -> Object:
    return {
        "apiVersion": f"{GROUP}/{version}",
        "kind": "Host",
        "metadata": {"name": name},
        **(fields or {"hostPort": "localhost:8080"}),
    }


@pytest.mark.conformance(
    "CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert from CR "
    "v1 to CR v2"
)
async def test_an_object_is_read_in_another_version(api: Api, converter: Converter) -> None:
    await define(api, converter.spec())
    made = (await api.post(things("v1"), host("a"))).ok(201)
    assert not converter.batches
    read = (await api.get(things("v2") + "/a")).ok()
    assert (read["host"], read["port"], read["apiVersion"]) == ("localhost", "8080", f"{GROUP}/v2")
    assert "hostPort" not in read
    assert read["metadata"] == made["metadata"]


@pytest.mark.conformance(
    "CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert a non "
    "homogeneous list of CRs"
)
async def test_a_list_of_mixed_versions_is_converted_in_one_request(
    api: Api, converter: Converter
) -> None:
    await define(api, converter.spec())
    for name in ("a", "b"):
        (await api.post(things("v1"), host(name))).ok(201)
    await change_storage(api, converter.spec(), "v2")
    (await api.post(things("v2"), host("c", "v2", host="h", port="1"))).ok(201)
    converter.batches.clear()
    listed = (await api.get(things("v2"))).ok()["items"]
    assert [(each["host"], each["port"]) for each in listed] == [
        ("localhost", "8080"),
        ("localhost", "8080"),
        ("h", "1"),
    ]
    assert [[each["metadata"]["name"] for each in batch] for batch in converter.batches] == [
        ["a", "b"]
    ]
    listed = (await api.get(things("v1"))).ok()["items"]
    assert [each["hostPort"] for each in listed] == ["localhost:8080", "localhost:8080", "h:1"]
    crd = (await api.get(f"{CRDS}/{NAME}")).ok()
    assert crd["status"]["storedVersions"] == ["v1", "v2"]

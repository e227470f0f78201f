"""The schema documents over HTTP: forms, caching, and custom resources that come and go."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.api.conftest import Api

PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


async def test_the_index_leads_to_documents(api: Api) -> None:
    paths = (await api.get("/openapi/v3")).ok()["paths"]
    url = paths["apis/apps/v1"]["serverRelativeURL"]
    answer = await api.get(url)
    document = answer.ok()
    assert document["openapi"] == "3.0.0"
    assert "io.k8s.api.apps.v1.Deployment" in document["components"]["schemas"]
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["Expires"].endswith("GMT")
    plain = await api.get(urlsplit(url).path)
    assert plain.json == document
    assert plain.headers["Cache-Control"] == "no-cache, private"
    assert (await api.get("/openapi/v3/")).json == (await api.get("/openapi/v3")).json


async def test_an_old_hash_leads_to_the_new_one(api: Api) -> None:
    answer = await api.get("/openapi/v3/api/v1?hash=0123")
    assert answer.status == 301
    assert (await api.get(answer.headers["Location"])).status == 200


@pytest.mark.parametrize("path", ["/openapi/v2", "/openapi/v3/apis/batch/v1"])
async def test_what_a_client_has_is_not_sent_again(api: Api, path: str) -> None:
    first = await api.get(path)
    again = await api.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    other = await api.get(path, headers={"If-None-Match": '"other"'})
    assert other.body == first.body


async def test_compressed_and_not(api: Api) -> None:
    plain = await api.get("/openapi/v2", headers={"Accept-Encoding": "identity"})
    small = await api.get("/openapi/v2", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert small.headers["Content-Encoding"] == "gzip"
    assert small.body == plain.body


async def test_protobuf(api: Api) -> None:
    answer = await api.get("/openapi/v2", headers={"Accept": PROTOBUF})
    assert answer.status == 200
    expected = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    assert answer.headers["Content-Type"] == expected
    assert answer.body.startswith(b"\x0a\x032.0")
    as_json = await api.get("/openapi/v2", headers={"Accept": "application/json"})
    assert as_json.json["swagger"] == "2.0"


@pytest.mark.parametrize(
    ("method", "path", "accept", "status"),
    [
        ("GET", "/openapi/v3", "text/csv", 406),
        ("GET", "/openapi/v3/api/v1", PROTOBUF, 406),
        ("GET", "/openapi/v2", "text/csv", 406),
        ("GET", "/openapi/v3/api/v9", "*/*", 404),
        ("GET", "/openapi/v3/nowhere", "*/*", 404),
        ("POST", "/openapi/v2", "*/*", 405),
        ("POST", "/openapi/v3", "*/*", 405),
    ],
)
async def test_refusals(api: Api, method: str, path: str, accept: str, status: int) -> None:
    answer = await api.request(method, path, headers={"Accept": accept})
    assert answer.status == status


def definition(description: str) -> dict[str, Any]:
    schema = {"type": "object", "description": description, "properties": {}}
    version = {"name": "v1", "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.io"},
        "spec": {
            "group": "example.io",
            "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
        },
    }


async def settled(api: Api, expected: str | None) -> None:
    """Until the definition of the custom kind says what is expected; None: is gone."""
    changed = asyncio.Event()
    api.server.core.catalog.on_change(changed.set)
    async with asyncio.timeout(60):
        while await published(api) != expected:
            await changed.wait()
            changed.clear()


async def published(api: Api) -> str | None:
    document = (await api.get("/openapi/v2")).json
    found = document["definitions"].get("io.example.v1.Foo")
    return found["description"] if found else None


async def test_custom_resources(api: Api) -> None:
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    (await api.post(crds, definition("First."))).ok(201)
    await settled(api, "First.")
    paths = (await api.get("/openapi/v3")).json["paths"]
    before = paths["apis/example.io/v1"]["serverRelativeURL"]
    document = (await api.get(before)).json
    assert "/apis/example.io/v1/namespaces/{namespace}/foos/{name}" in document["paths"]
    changed = definition("Second.")["spec"]
    (await api.patch(f"{crds}/foos.example.io", {"spec": changed})).ok()
    await settled(api, "Second.")
    moved = await api.get(before)
    assert moved.status == 301
    (await api.delete(f"{crds}/foos.example.io")).ok()
    await settled(api, None)
    assert (await api.get("/openapi/v3/apis/example.io/v1")).status == 404
    assert "apis/example.io/v1" not in json.dumps((await api.get("/openapi/v3")).json)

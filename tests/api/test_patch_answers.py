"""What PATCH answers to patches that cannot be used, in upstream's words."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from tests.api.conftest import Api
from tests.api.hostile import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAPS = "/api/v1/namespaces/default/configmaps"
PATCH = ' "" is invalid: patch: Invalid value: '
NAMELESS = "the name of the object (there based on URL) was undeterminable: name must be provided"
NOT_A_MAP = "json: cannot unmarshal array into Go value of type map[string]interface {}"
REJECTED = "the server rejected our request due to an error in our request"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_api: Api) -> Api:
    await shared_api.post(MAPS, {"metadata": {"name": "there"}, "data": {"a": "b"}}, **ROOT)
    return shared_api


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("merge", b"[]", 400, f"error decoding patch: {NOT_A_MAP}"),
        ("merge", b"{", 400, "error decoding patch: unexpected end of JSON input"),
        ("merge", b"null", 400, "Invalid JSON Patch"),
        ("merge", b'{"metadata": null}', 400, NAMELESS),
        ("merge", b'{"metadata": {"name": null}}', 400, NAMELESS),
        ("merge", b'{"data": {"a": 1}}', 422, PATCH),
        ("merge", b'{"kind": "Foo"}', 422, PATCH),
        ("merge", b'{"metadata": {"uid": "1"}}', 422, "metadata.uid: Invalid value"),
        ("merge", b'{"metadata": {"namespace": "x"}}', 400, "the namespace of the provided object"),
        ("strategic", b"[]", 400, NOT_A_MAP),
        ("strategic", b"{", 400, "unexpected end of JSON input"),
        ("strategic", b'{"data": {"a": 1}}', 422, f'{PATCH}"map[data:map[a:1]]": '),
        ("json", b"{}", 400, "json: cannot unmarshal object into Go value of type []handlers."),
        ("json", b"[1]", 400, "json: cannot unmarshal number into Go value of type handlers."),
        ("json", b"null", 200, ""),
        ("json", b'[{"op": "remove", "path": "/data/none"}]', 422, REJECTED),
        ("json", b'[{"op": "replace", "path": "/data/none", "value": "x"}]', 200, ""),
        ("json", b'[{"op": "add", "path": "/data/none"}]', 200, ""),
        ("json", b'[{"op": "copy", "from": "/data/none", "path": "/data/b"}]', 200, ""),
        ("apply", b"{}", 400, "invalid object type: /, Kind="),
        ("apply", b"", 400, "invalid object type: /, Kind="),
        (
            "apply",
            b'{"apiVersion": "v1", "kind": "Foo"}',
            400,
            "invalid object type: /v1, Kind=Foo",
        ),
        ("apply", b"[]", 400, f"while decoding JSON: {NOT_A_MAP}"),
        ("apply", b"a: [", 400, "error decoding YAML: error converting YAML to JSON: "),
        (
            "apply",
            b'{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"uid": "1"}}',
            422,
            "metadata.uid: Invalid value",
        ),
    ],
)
async def test_patch(api: Api, kind: str, body: bytes, status: int, message: str) -> None:
    query = "?dryRun=All" + ("&fieldManager=me" if kind == "apply" else "")
    answer = await api.patch(f"{MAPS}/there{query}", body, kind, **ROOT)
    assert answer.status == status, answer.body
    assert message in answer.json.get("message", "")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"bogus": 1}', 'strict decoding error: unknown field \\"bogus\\"'),
        (b'{"data": {"a": "1", "a": "2"}}', 'strict decoding error: duplicate field \\"data.a\\"'),
    ],
)
async def test_strict_patch(api: Api, body: bytes, problem: str) -> None:
    answer = await api.patch(f"{MAPS}/there?fieldValidation=Strict", body, **ROOT)
    assert answer.status == 422
    assert answer.json["message"].startswith(PATCH)
    assert problem.encode() in answer.body
    assert [each["field"] for each in answer.json["details"]["causes"]] == ["patch"]


async def test_media_type_of_no_patch(api: Api) -> None:
    answer = await api.request(
        "PATCH", f"{MAPS}/there", {}, user=ROOT["user"], groups=ROOT["groups"]
    )
    assert (answer.status, answer.json["message"]) == (415, "415: Unsupported Media Type")
    assert answer.json["details"] == {}


async def test_what_a_write_cannot_choose(api: Api) -> None:
    """The namespace of what lies in none, and when an object was made."""
    made: dict[str, Any] = {"metadata": {"name": "free", "namespace": "default"}}
    node = (await api.post("/api/v1/nodes", made, **ROOT)).ok(201)
    assert "namespace" not in node["metadata"]
    created = node["metadata"]["creationTimestamp"]
    node["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z"
    node = (await api.put("/api/v1/nodes/free", node, **ROOT)).ok()
    assert node["metadata"]["creationTimestamp"] == created


async def test_unknown_propagation(api: Api) -> None:
    answer = await api.delete(f"{MAPS}/there?propagationPolicy=Odd", **ROOT)
    assert answer.status == 422
    assert answer.json["message"].endswith(
        'supported values: "Foreground", "Background", "Orphan", "nil"'
    )


async def test_update_that_must_name_a_version(api: Api) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    lease = (await api.post(path, {"metadata": {"name": "held"}}, **ROOT)).ok(201)
    del lease["metadata"]["resourceVersion"]
    answer = await api.put(f"{path}/held", lease, **ROOT)
    assert answer.status == 422
    assert answer.json["details"]["kind"] == "leases"

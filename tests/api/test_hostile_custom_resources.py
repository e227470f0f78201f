"""Custom resources that are wrong, and definitions that would be dangerous."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import pytest_asyncio
from tests.api.conftest import Api
from tests.api.hostile import CM, ROOT, Object, Refusal, furnish, refuse, row
from tests.fuzz.client import Client
from tests.fuzz.generator import THING_DEFINITION, Request

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
THINGS = "/apis/fuzz.example/v1/namespaces/default/things"
PROTOBUF = "application/vnd.kubernetes.protobuf"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(shared_api: Api) -> Api:
    await furnish(shared_api)
    (await shared_api.post(DEFINITIONS, THING_DEFINITION, **ROOT)).ok(201)
    async with asyncio.timeout(60):
        while (await shared_api.get(THINGS, **ROOT)).status != 200:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.02)
    (await shared_api.post(THINGS, thing(name="there"), **ROOT)).ok(201)
    return shared_api


def thing(name: str = "new", **spec: Any) -> Object:
    return {
        "apiVersion": "fuzz.example/v1",
        "kind": "Thing",
        "metadata": {"name": name},
        "spec": {"low": 2, **spec},
    }


def embedded(metadata: Any) -> Object:
    return thing(whole={"apiVersion": "v1", "kind": "X", "metadata": metadata})


def definition(group: str, schema: Object) -> Object:
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "bars", "kind": "Bar"}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": f"bars.{group}"}, "spec": spec}


BODIES = [
    *(
        row(f"metadata is {kind}", f"POST {THINGS}", 400,
            f"json: cannot unmarshal {kind} into Go value of type v1.ObjectMeta",
            body={**thing(), "metadata": value})
        for kind, value in (("string", "x"), ("array", [{}]), ("number", 5))
    ),
    *(
        row(f"kind is {kind}", f"POST {THINGS}", 400,
            f"json: cannot unmarshal {kind} into Go struct field .kind of type string",
            body={**thing(), "kind": value})
        for kind, value in (("object", {}), ("array", []), ("number", 0))
    ),
    row("apiVersion is an object", f"POST {THINGS}", 400,
        "json: cannot unmarshal object into Go struct field .apiVersion of type string",
        body={**thing(), "apiVersion": {}}),
    row("apiVersion is null", f"POST {THINGS}", 400, "does not match the expected API version",
        body={**thing(), "apiVersion": None}),
    row("patched apiVersion", f"PATCH {THINGS}/there", 400, body={"apiVersion": 5},
        content_type="application/merge-patch+json"),
    row("an array", f"POST {THINGS}", 400,
        "couldn't get version/kind; json parse error: json: cannot unmarshal array", body=[]),
    row("embedded metadata is a string", f"POST {THINGS}", 400,
        "json: cannot unmarshal string into Go value of type v1.ObjectMeta", body=embedded("x")),
    row("embedded name is a number", f"POST {THINGS}", 400,
        "cannot unmarshal number into Go struct field ObjectMeta", body=embedded({"name": 5})),
    row("other kind", f"POST {THINGS}", 422, causes=("kind",), body={**thing(), "kind": "Other"}),
    row("patched metadata", f"PATCH {THINGS}/there", 422, "into Go value of type v1.ObjectMeta",
        causes=("patch",), body={"metadata": "x"}, content_type="application/merge-patch+json"),
    row("row-23 protobuf", f"POST {THINGS}", 415, body=b"k8s\0", content_type=PROTOBUF),
    row("row-81 costly pattern", f"POST {THINGS}", 422, causes=("spec.name",),
        body=thing() | {"spec": {"name": "a" * 5000 + "!"}}),
    row("row-81 wrong type", f"POST {THINGS}", 422, "must be of type integer",
        causes=("spec.low",), body=thing(low="x")),
    row("row-80 not structural", f"POST {DEFINITIONS}", 422, body=definition("b.example", {}),
        causes=("spec.validation.openAPIV3Schema.type",)),
    row("row-80 group of others", f"POST {DEFINITIONS}", 422, "protected groups must have approval",
        causes=("metadata.annotations[api-approved.kubernetes.io]",),
        body=definition("b.k8s.io", {"type": "object"})),
    row("row-81 strategic merge", f"PATCH {THINGS}/there", 415, body={},
        content_type=STRATEGIC_PATCH),
]  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
async def test_it_is_refused(api: Api, case: Refusal) -> None:
    await refuse(api, case)


@pytest.mark.parametrize("header", ["Impersonate-User", "Impersonate-Group", "Impersonate-Uid"])
async def test_row_6_headers_that_are_no_text(api: Api, header: str) -> None:
    """Bytes that are no UTF-8, in the name of a user that the answer repeats."""
    named = [("Test-User", "root"), ("Test-Groups", "system:masters"), (header, "\xe9")]
    if header != "Impersonate-User":
        named.append(("Impersonate-User", "ann"))
    client = Client(api.server.port)
    reply = await client.send(Request("GET", CM, tuple(named)))
    client.close()
    assert (reply.status, json.loads(reply.body)["reason"]) == (403, "Forbidden")


@pytest.mark.parametrize("step", ["copy", "move"])
async def test_row_43_metadata_elsewhere(api: Api, step: str) -> None:
    """What stands in two places is of two types, and neither spoils the other."""
    steps = [{"op": step, "from": "/metadata", "path": "/immutable"},
             {"op": "remove", "path": "/immutable"}]  # fmt: skip
    status = 200 if step == "copy" else 400
    assert (await api.patch(f"{CM}/there", steps, "json", **ROOT)).status == status
    claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
    body = {"metadata": {"name": step}, "spec": {}}
    (await api.post(claims, body, **ROOT)).ok(201)
    steps = [{"op": step, "from": "/metadata", "path": "/spec"}]
    assert (await api.patch(f"{claims}/{step}", steps, "json", **ROOT)).status == status

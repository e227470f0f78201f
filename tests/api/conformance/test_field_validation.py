"""Fields nobody knows, or that are there twice, when the client asks for strictness."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.conformance.conftest import ANYTHING, define, definition
from tests.api.conftest import Api

Object = dict[str, Any]
GROUP = "mygroup.example.com"
STRICT = "?fieldManager=field_validation_mgr&fieldValidation=Strict"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"

DEPLOYMENT = """{
  "apiVersion": "apps/v1", "kind": "Deployment",
  "metadata": {"name": "d"%s},
  "spec": {
    %s
    "selector": {"matchLabels": {"app": "nginx"}},
    "template": {
      "metadata": {"labels": {"app": "nginx"}},
      "spec": {"containers": [{"name": "nginx", "image": "nginx:latest"}]}
    }
  }
}"""


@pytest.mark.parametrize(
    ("metadata", "spec", "problem"),
    [
        pytest.param(
            "",
            '"unknownField": "foo", "replicas": 2, "replicas": 3,',
            'unknown field "spec.unknownField", duplicate field "spec.replicas"',
            marks=pytest.mark.conformance(
                "FieldValidation should detect unknown and duplicate fields of a typed object"
            ),
        ),
        pytest.param(
            ', "unknownMeta": "foo"',
            "",
            'unknown field "metadata.unknownMeta"',
            marks=pytest.mark.conformance(
                "FieldValidation should detect unknown metadata fields of a typed object"
            ),
        ),
    ],
    ids=["spec", "metadata"],
)
async def test_typed_objects(api: Api, metadata: str, spec: str, problem: str) -> None:
    body = (DEPLOYMENT % (metadata, spec)).encode()
    refused = await api.post(DEPLOYMENTS + STRICT, body)
    assert (refused.status, refused.json["reason"]) == (400, "BadRequest")
    assert f"strict decoding error: {problem}" in refused.json["message"]
    assert (await api.get(DEPLOYMENTS)).ok()["items"] == []


NUMBER, TEXT = {"type": "integer", "format": "int32"}, {"type": "string"}
PORTS: Object = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
    "items": {
        "type": "object",
        "required": ["containerPort", "protocol"],
        "properties": {"containerPort": NUMBER, "name": TEXT, "protocol": TEXT},
    },
}
CRON = {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"}
FIELDS = {"foo": TEXT, "cronSpec": CRON, "ports": PORTS}


def schema(**spec: Any) -> Object:
    return {"type": "object", "properties": {"spec": {"type": "object", **spec}}}


CLOSED = schema(properties=FIELDS)
OPEN = schema(properties=FIELDS, **{"x-kubernetes-preserve-unknown-fields": True})
EMBEDDING = schema(
    properties={
        **FIELDS,
        "template": {
            "type": "object",
            "x-kubernetes-embedded-resource": True,
            "properties": {
                "metadata": {"type": "object", "properties": {"name": TEXT}},
                "spec": {"type": "object"},
            },
        },
    },
    **{"x-kubernetes-preserve-unknown-fields": True},
)

HEAD = f"apiVersion: {GROUP}/v1beta1\nkind: Foo\nmetadata:\n  name: mytest\n"
REST = """\
  cronSpec: "* * * * */5"
  ports:
  - name: x
    containerPort: 80
    protocol: TCP
"""
TEMPLATE = """\
  template:
    apiversion: foo/v1
    kind: Sub
    metadata:
        unknownSubMeta: unknown
        name: subobject
        namespace: default
"""
CREATE = "FieldValidation should create/apply "
DETECT = "FieldValidation should detect "


@pytest.mark.parametrize(
    ("root", "body"),
    [
        pytest.param(
            CLOSED,
            f"{HEAD}spec:\n  foo: foo1\n{REST}",
            marks=pytest.mark.conformance(CREATE + "a valid CR for CRD with validation schema"),
        ),
        pytest.param(
            ANYTHING,
            f"{HEAD}spec:\n  unknown: uk1\n{REST}",
            marks=pytest.mark.conformance(
                CREATE + "a CR with unknown fields for CRD with no validation schema"
            ),
        ),
    ],
    ids=["valid", "no schema"],
)
async def test_custom_resources_that_are_taken(api: Api, root: Object, body: str) -> None:
    await define(api, definition(GROUP, "Foo", v1beta1=root, v1=root))
    path = f"/apis/{GROUP}/v1beta1/foos"
    made = (await api.patch(f"{path}/mytest{STRICT}", body.encode(), kind="apply")).ok(201)
    assert made["spec"]["cronSpec"] == "* * * * */5"
    assert (await api.get(f"{path}/mytest")).ok()["spec"] == made["spec"]


@pytest.mark.parametrize(
    ("root", "body", "problems"),
    [
        pytest.param(
            CLOSED,
            f"{HEAD}unknownField: unknown\nspec:\n  foo: foo1\n{REST}",
            [".unknownField: field not declared in schema"],
            marks=pytest.mark.conformance(
                CREATE + "an invalid CR with extra properties for CRD with validation schema"
            ),
        ),
        pytest.param(
            EMBEDDING,
            f"{HEAD}  unknownMeta: unknown\nspec:\n{TEMPLATE}  foo: foo1\n{REST}",
            [
                ".metadata.unknownMeta: field not declared in schema",
                ".spec.template.metadata.unknownSubMeta: field not declared in schema",
            ],
            marks=pytest.mark.conformance(
                DETECT + "unknown metadata fields in both the root and embedded object of a CR"
            ),
        ),
        pytest.param(
            OPEN,
            f"\n{HEAD}spec:\n  unknown: uk1\n  foo: foo1\n  foo: foo2\n{REST}",
            ['line 9: key "foo" already set in map'],
            marks=pytest.mark.conformance(
                DETECT + "duplicates in a CR when preserving unknown fields"
            ),
        ),
    ],
    ids=["extra", "metadata", "duplicates"],
)
async def test_custom_resources_that_are_refused(
    api: Api, root: Object, body: str, problems: list[str]
) -> None:
    await define(api, definition(GROUP, "Foo", v1beta1=root, v1=root))
    path = f"/apis/{GROUP}/v1beta1/foos"
    refused = await api.patch(f"{path}/mytest{STRICT}", body.encode(), kind="apply")
    assert refused.status == 400, (refused.status, refused.body)
    for problem in problems:
        assert problem in refused.json["message"]
    assert (await api.get(f"{path}/mytest")).status == 404

"""What kubectl makes of the published schemas of custom resources: what it sends, lets pass and
explains."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.api.conformance.conftest import ANYTHING, FOO, WALDO, definition
from tests.api.kubectl.conftest import Kubectl

pytestmark = pytest.mark.asyncio(loop_scope="module")

Object = dict[str, Any]
TITLE = "CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD "
OPEN = {"x-kubernetes-preserve-unknown-fields": True}


async def define(kubectl: Kubectl, group: str, kind: str, schema: Object) -> str:
    """The apiVersion of the new kind, as soon as kubectl can explain it."""
    crd = definition(group, kind, "Namespaced", v1=schema)
    await kubectl("create", "-f", "-", stdin=crd)
    name = crd["metadata"]["name"]
    await kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=120s")
    return f"{group}/v1"


async def explains(kubectl: Kubectl, what: str, pattern: str) -> None:
    text = await kubectl("explain", what)
    assert re.search(pattern, text, re.DOTALL), text


async def comes_and_goes(kubectl: Kubectl, obj: Object) -> None:
    """Both verbs that write take it."""
    for verb in ("create", "apply"):
        await kubectl(verb, "-f", "-", stdin=obj)
        await kubectl("delete", f"{obj['kind'].lower()}s", obj["metadata"]["name"])


@pytest.mark.conformance(TITLE + "with validation schema")
async def test_a_schema_that_says_everything(kubectl: Kubectl) -> None:
    version = await define(kubectl, "schema.example.com", "Foo", FOO)
    head: Object = {"apiVersion": version, "kind": "Foo", "metadata": {"name": "test-foo"}}
    await comes_and_goes(kubectl, {**head, "spec": {"bars": [{"name": "test-bar"}]}})
    bad = {**head, "spec": {"bars": [{"name": "test-bar", "feeling": "NonExistentValue"}]}}
    refused = await kubectl.fails("create", "-f", "-", stdin=bad)
    assert 'Unsupported value: "NonExistentValue"' in refused
    for verb in ("create", "apply"):
        for spec, problem in (
            ({"foo": True}, 'unknown field "spec.foo"'),
            ({"bars": [{"bazs": ["10"]}]}, "spec.bars[0].name: Required value"),
        ):
            assert problem in await kubectl.fails(verb, "-f", "-", stdin={**head, "spec": spec})
    for what, pattern in (
        (
            "foos",
            "DESCRIPTION:.*Foo CRD for Testing.*FIELDS:.*apiVersion.*<string>.*"
            "APIVersion defines.*spec.*<Object>.*Specification of Foo",
        ),
        (
            "foos.metadata",
            "DESCRIPTION:.*Standard object's metadata.*FIELDS:.*creationTimestamp.*<string>.*"
            "CreationTimestamp is a timestamp",
        ),
        (
            "foos.spec",
            r"DESCRIPTION:.*Specification of Foo.*FIELDS:.*bars.*<\[\]Object>.*List of Bars",
        ),
        (
            "foos.spec.bars",
            r"FIELD:.*bars.*<\[\]Object>.*DESCRIPTION:.*List of Bars.*FIELDS:.*"
            r"bazs.*<\[\]string>.*List of Bazs.*name.*<string>.*Name of Bar",
        ),
    ):
        await explains(kubectl, what, pattern)
    missing = await kubectl.fails("explain", "foos.spec.bars2")
    assert 'field "bars2" does not exist' in missing


NESTED = {**WALDO, "properties": {**WALDO["properties"]}}
NESTED["properties"]["spec"] = {**NESTED["properties"]["spec"], **OPEN}


@pytest.mark.parametrize(
    ("kind", "schema", "content", "explained"),
    [
        pytest.param(
            "Empty",
            ANYTHING,
            {"a": {"b": [{"c": "d"}]}},
            "DESCRIPTION:.*<empty>",
            marks=pytest.mark.conformance(TITLE + "without validation schema"),
        ),
        pytest.param(
            "Root",
            {**WALDO, **OPEN},
            {"a": {"b": [{"c": "d"}]}},
            "KIND:.*Root",
            marks=pytest.mark.conformance(TITLE + "preserving unknown fields at the schema root"),
        ),
        pytest.param(
            "Nested",
            {**NESTED, "description": "preserve-unknown-properties in nested field"},
            {"spec": {"a": None, "b": [{"c": "d"}]}},
            "DESCRIPTION:.*preserve-unknown-properties in nested field",
            marks=pytest.mark.conformance(
                TITLE + "preserving unknown fields in an embedded object"
            ),
        ),
    ],
    ids=["none", "root", "nested"],
)
async def test_unknown_fields_that_are_kept(
    kubectl: Kubectl, kind: str, schema: Object, content: Object, explained: str
) -> None:
    version = await define(kubectl, "open.example.com", kind, schema)
    obj = {"apiVersion": version, "kind": kind, "metadata": {"name": "test-cr"}, **content}
    await comes_and_goes(kubectl, obj)
    await kubectl("create", "-f", "-", stdin=obj)
    kept = await kubectl.get(kind.lower(), "test-cr")
    assert {key: kept[key] for key in content} == content
    await explains(kubectl, f"{kind.lower()}s", explained)

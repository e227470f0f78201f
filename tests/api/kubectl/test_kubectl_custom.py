"""kubectl with custom resources: columns, schemas, explanations, both kinds of apply."""

from __future__ import annotations

from typing import Any

import pytest
from tests.api.kubectl.conftest import Kubectl, columns

pytestmark = pytest.mark.asyncio(loop_scope="module")

Object = dict[str, Any]


def definition(group: str) -> Object:
    spec_schema = {
        "type": "object",
        "description": "What the gadget shall be.",
        "required": ["size"],
        "properties": {
            "size": {"type": "integer", "minimum": 1, "description": "How big it is."},
            "colour": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        },
    }
    schema = {
        "type": "object",
        "description": "Gadget is a thing.",
        "properties": {
            "spec": spec_schema,
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    printed = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Colour", "type": "string", "jsonPath": ".spec.colour", "priority": 1},
        {
            "name": "Ready",
            "type": "string",
            "jsonPath": '.status.conditions[?(@.type=="Ready")].status',
        },
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"gadgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "plural": "gadgets",
                "singular": "gadget",
                "kind": "Gadget",
                "shortNames": ["gd"],
            },
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "additionalPrinterColumns": printed,
                    "subresources": {"status": {}},
                }
            ],
        },
    }


def gadget(group: str, name: str, **spec: Any) -> Object:
    return {
        "apiVersion": f"{group}/v1",
        "kind": "Gadget",
        "metadata": {"name": name},
        "spec": spec,
    }


async def test_custom_resources(kubectl: Kubectl) -> None:
    group = "shop.example.io"
    await kubectl("apply", "-f", "-", stdin=definition(group))
    crd = f"crd/gadgets.{group}"
    await kubectl("wait", "--for=condition=Established", crd, "--timeout=120s")
    await kubectl("create", "-f", "-", stdin=gadget(group, "a", size=3))
    await kubectl.set_status("gadget/a", conditions=[{"type": "Ready", "status": "True"}])
    table = await kubectl("get", "gd")
    assert table.splitlines()[0].split() == ["NAME", "SIZE", "READY", "AGE"]
    assert columns(table)[0][:3] == ["a", "3", "True"]
    assert columns(await kubectl("get", "gadgets", "-o", "wide"))[0][:4] == [
        "a",
        "3",
        "red",
        "True",
    ]
    text = await kubectl("explain", "gadget")
    assert "Gadget is a thing." in text
    assert "APIVersion defines" in text
    assert "How big it is." in await kubectl("explain", "gadgets.spec.size")
    assert "Name:         a" in await kubectl("describe", "gadget", "a")

    await kubectl("apply", "-f", "-", stdin=gadget(group, "b", size=1))
    await kubectl("apply", "-f", "-", stdin=gadget(group, "b", size=2, colour="blue"))
    assert (await kubectl.get("gadget", "b"))["spec"] == {"size": 2, "colour": "blue"}
    await kubectl("apply", "--server-side", "-f", "-", stdin=gadget(group, "c", size=2))

    unknown = await kubectl.fails("apply", "-f", "-", stdin=gadget(group, "d", size=1, hair="x"))
    assert 'unknown field "spec.hair"' in unknown
    missing = await kubectl.fails("create", "-f", "-", stdin=gadget(group, "d"))
    assert "spec.size: Required value" in missing
    wrong = await kubectl.fails("create", "-f", "-", stdin=gadget(group, "d", size=1, colour="x"))
    assert 'Unsupported value: "x"' in wrong

    await kubectl("delete", crd)
    # kubectl may still remember that there was such a resource.
    gone = await kubectl.fails("get", "gadgets")
    assert "doesn't have a resource type" in gone or "could not find the requested" in gone

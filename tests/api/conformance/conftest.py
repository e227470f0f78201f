"""Definitions of custom kinds, as conformance tests need them."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.api.conftest import Api

Object = dict[str, Any]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ANYTHING: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def described(text: str, **fields: Object) -> Object:
    return {"description": text, "type": "object", "properties": fields}


def bars(item: Object) -> Object:
    return {"description": "List of Bars.", "type": "array", "items": {**item, "type": "object"}}


TEXT = {"type": "string"}
FOO = described(
    "Foo CRD for Testing",
    spec=described(
        "Specification of Foo",
        bars=bars(
            {
                "required": ["name"],
                "properties": {
                    "name": {**TEXT, "description": "Name of Bar."},
                    "feeling": {**TEXT, "enum": ["Great", "Down"]},
                    "bazs": {"description": "List of Bazs.", "type": "array", "items": TEXT},
                },
            }
        ),
    ),
    status=described(
        "Status of Foo",
        bars=bars({"properties": {"quxType": {**TEXT, "pattern": "in-tree|out-of-tree"}}}),
    ),
)
WALDO = described("Waldo CRD for Testing", spec=described("Waldo", dummy=described("Dummy.")))
WALDO["properties"]["spec"]["properties"]["dummy"].pop("properties")


def definition(group: str, kind: str, scope: str = "Cluster", **schemas: Object) -> Object:
    """A kind with these versions, the last of which is stored."""
    versions = [
        {
            "name": name,
            "served": True,
            "storage": name == [*schemas][-1],
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        }
        for name, schema in schemas.items()
    ]
    plural = kind.lower() + "s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": versions,
        },
    }


async def define(api: Api, wanted: Object) -> Object:
    """Make the definition; it is established when this returns."""
    name = wanted["metadata"]["name"]
    (await api.post(DEFINITIONS, wanted)).ok(201)
    path = f"{DEFINITIONS}?watch=1&fieldSelector=metadata.name%3D{name}"
    async with api.watch(path) as events, asyncio.timeout(60):
        async for event in events:
            crd: Object = event["object"]
            conditions = crd.get("status", {}).get("conditions") or ()
            if {each["type"]: each["status"] for each in conditions}.get("Established") == "True":
                return crd
    raise AssertionError(f"{name} is not established")

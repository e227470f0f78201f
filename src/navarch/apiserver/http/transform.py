"""Other views of an object: metadata only, and tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from navarch.apiserver.http.negotiation import Representation
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.registry.tables_hook import render_table

Object = dict[str, Any]

PARTIAL = "PartialObjectMetadata"
META_GROUP = "meta.k8s.io"
encode = msgspec.json.Encoder().encode


def partial_object(obj: Object, version: str) -> Object:
    """The object's metadata as a kind of its own."""
    return {
        "kind": PARTIAL,
        "apiVersion": f"{META_GROUP}/{version}",
        "metadata": obj["metadata"],
    }


def transform_object(
    resource: Resource, obj: Object, wanted: Representation, include: str = ""
) -> Object:
    """One object in the view that was negotiated."""
    if wanted.transform == "Table":
        version = obj["metadata"].get("resourceVersion", "")
        list_metadata = {"resourceVersion": version} if version else {}
        return table(resource, [obj], wanted, list_metadata, include)
    return partial_object(obj, wanted.transform_version)


def transform_list(
    resource: Resource,
    objects: Sequence[Object],
    wanted: Representation,
    list_metadata: Object,
    include: str = "",
) -> Object:
    """A list in the view that was negotiated."""
    if wanted.transform == "Table":
        return table(resource, objects, wanted, list_metadata, include)
    return {
        "kind": "PartialObjectMetadataList",
        "apiVersion": f"{META_GROUP}/{wanted.transform_version}",
        "metadata": list_metadata,
        "items": [partial_object(obj, wanted.transform_version) for obj in objects],
    }


def table(
    resource: Resource,
    objects: Sequence[Object],
    wanted: Representation,
    list_metadata: Object,
    include: str,
) -> Object:
    """A `Table`: columns, and per object its cells and as much of the object as was asked for."""
    columns, rows = render_table(resource, objects)
    version = wanted.transform_version
    result_rows = []
    for obj, cells in zip(objects, rows, strict=True):
        row: Object = {"cells": cells}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = partial_object(obj, version)
        else:
            row["object"] = None
        result_rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": f"{META_GROUP}/{version}",
        "metadata": list_metadata,
        "columnDefinitions": columns,
        "rows": result_rows,
    }

"""Other views of an object: metadata only, and tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from navarch.api.errors import ApiError, bad_request
from navarch.apiserver.http.negotiation import Representation, not_acceptable
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.tables.render import render_rows, rows_of
from navarch.apiserver.tables.table import Table

Object = dict[str, Any]

PARTIAL = "PartialObjectMetadata"
PARTIAL_LIST = "PartialObjectMetadataList"
META_GROUP = "meta.k8s.io"
encode = msgspec.json.Encoder().encode


def partial_object(obj: Object, version: str) -> Object:
    """The object's metadata as a kind of its own."""
    return {"kind": PARTIAL, "apiVersion": f"{META_GROUP}/{version}", "metadata": obj["metadata"]}


def transform_object(
    resource: Resource, obj: Object, wanted: Representation, include: str = ""
) -> Object:
    """One object in the view that was negotiated. Raises 400, 406."""
    if wanted.transform == "Table":
        return _resource_table(resource, [obj], wanted, _version_of(obj), include)
    if wanted.transform == PARTIAL_LIST:
        raise _not_acceptable(f"you requested {PARTIAL_LIST}, but the requested object is no list")
    return partial_object(obj, wanted.transform_version)


def transform_list(
    resource: Resource,
    objects: Sequence[Object],
    wanted: Representation,
    list_metadata: Object,
    include: str = "",
) -> Object:
    """A list in the view that was negotiated. Raises 400, 406."""
    if wanted.transform == "Table":
        return _resource_table(resource, objects, wanted, list_metadata, include)
    if wanted.transform == PARTIAL:
        raise _not_acceptable(f"you requested {PARTIAL}, but the requested object is a list")
    return {
        "kind": PARTIAL_LIST,
        "apiVersion": f"{META_GROUP}/{wanted.transform_version}",
        "metadata": list_metadata,
        "items": [partial_object(obj, wanted.transform_version) for obj in objects],
    }


def transform_unstored(
    table: Table, objects: Sequence[Object], wanted: Representation, include: str = ""
) -> Object:
    """Objects that are made up on request (scales, component statuses) in the view that was
    negotiated. Raises 400, 406."""
    if wanted.transform != "Table":
        raise not_acceptable()
    rows = rows_of(table, objects, datetime.now(UTC))
    version = _version_of(objects[0]) if len(objects) == 1 else {}
    return _table(table.columns, rows, objects, version, (wanted, include))


def _resource_table(
    resource: Resource,
    objects: Sequence[Object],
    wanted: Representation,
    list_metadata: Object,
    include: str,
) -> Object:
    """A `Table`: columns, and per object its cells and as much of the object as was asked for."""
    columns, rows = render_rows(resource, objects)
    return _table(columns, rows, objects, list_metadata, (wanted, include))


def _table(
    columns: Sequence[Object],
    rows: Sequence[Object],
    objects: Sequence[Object],
    list_metadata: Object,
    form: tuple[Representation, str],
) -> Object:
    wanted, include = form
    check_include(include)
    version = wanted.transform_version
    for row, obj in zip(rows, objects, strict=True):
        if include == "Object":
            row["object"] = obj
        elif include == "None":
            row["object"] = None
        else:
            row["object"] = partial_object(obj, version)
    return {
        "kind": "Table",
        "apiVersion": f"{META_GROUP}/{version}",
        "metadata": list_metadata,
        "columnDefinitions": columns,
        "rows": rows,
    }


def check_include(include: str) -> None:
    """Raise 400 for an `includeObject` that says nothing known."""
    if include not in ("", "None", "Metadata", "Object"):
        raise bad_request(
            "Unable to convert to Table as requested: includeObject: Invalid value: "
            f"\"{include}\": must be 'Metadata', 'Object', 'None', or empty"
        )


def _version_of(obj: Object) -> Object:
    version = obj["metadata"].get("resourceVersion", "")
    return {"resourceVersion": version} if version else {}


def _not_acceptable(message: str) -> ApiError:
    return ApiError(406, "NotAcceptable", message)

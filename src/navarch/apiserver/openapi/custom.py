"""The published schemas of custom resources: what the definition says, and what every object has.

OpenAPI 3 says it all. Swagger 2 cannot say nullable, any-of and the like, so these are left out,
and a node that keeps unknown fields loses its type and its fields: kubectl takes a list of fields
for a complete one.
"""

from __future__ import annotations

from typing import Any

from navarch.api.kinds import Kind
from navarch.apiserver.openapi.definitions import GVK, META, OWN_WORDS
from navarch.apiserver.registry.resource import Resource

Object = dict[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
EMBEDDED = "x-kubernetes-embedded-resource"
_JUNCTORS = ("allOf", "anyOf", "oneOf", "not")
_NOT_IN_V2 = (*_JUNCTORS, "default", "nullable", "x-kubernetes-validations")


def custom_name(group: str, version: str, kind: str) -> str:
    """`io.example.v1.Foo` for the kind Foo of example.io/v1."""
    return ".".join([*reversed(group.split(".")), version, kind])


def custom_definitions(resource: Resource, prefix: str, is_v3: bool) -> dict[str, Object]:
    """The definitions of a custom kind and of its list."""
    kind = resource.kind
    version = served_version(resource)
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    name = custom_name(*kind.gvk)
    own = _kind_schema(schema, prefix, is_v3)
    own[GVK] = [_gvk(kind, kind.kind)]
    selectable = [
        {"fieldPath": each.get("jsonPath", "")[1:]}
        for each in version.get("selectableFields") or ()
    ]
    if selectable and is_v3:
        own["x-kubernetes-selectable-fields"] = selectable
    return {
        name: own,
        custom_name(kind.group, kind.version, kind.list_kind): _list_schema(kind, name, prefix),
    }


def served_version(resource: Resource) -> Object:
    """The version's entry in the resource's definition."""
    spec = (resource.definition or {}).get("spec") or {}
    for version in spec.get("versions") or ():
        if version.get("name") == resource.kind.version:
            found: Object = version
            return found
    return {}


def _gvk(kind: Kind, name: str) -> Object:
    return {"group": kind.group, "version": kind.version, "kind": name}


def _meta_fields(prefix: str, meta: str = "ObjectMeta") -> Object:
    reference: Object = {"$ref": f"{prefix}{META}.{meta}"}
    if prefix.startswith("#/components"):
        reference = {"allOf": [reference]}
    return {
        "apiVersion": {"description": OWN_WORDS["apiVersion"], "type": "string"},
        "kind": {"description": OWN_WORDS["kind"], "type": "string"},
        "metadata": {"description": OWN_WORDS["metadata"], **reference},
    }


def _kind_schema(schema: Object | None, prefix: str, is_v3: bool) -> Object:
    if not schema or (not is_v3 and schema.get(PRESERVE)):
        # Not even metadata: kubectl would refuse every other field as unknown.
        return {"type": "object"}
    own = _published(schema, prefix, is_v3)
    own["properties"] = {**(own.get("properties") or {}), **_meta_fields(prefix)}
    return own


def _list_schema(kind: Kind, name: str, prefix: str) -> Object:
    return {
        "description": f"{kind.list_kind} is a list of {kind.kind}",
        "type": "object",
        "required": ["items"],
        "properties": {
            **_meta_fields(prefix, "ListMeta"),
            "items": {
                "description": f"List of {kind.plural}.",
                "type": "array",
                "items": {"$ref": prefix + name},
            },
        },
        GVK: [_gvk(kind, kind.list_kind)],
    }


def _published(schema: Object, prefix: str, is_v3: bool) -> Object:
    """A node and all below it, as OpenAPI of that version can say it."""
    out = dict(schema)
    if not is_v3:
        _simplify(out)
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = _published(out[key], prefix, is_v3)
    if isinstance(out.get("properties"), dict):
        out["properties"] = {
            name: _published(child, prefix, is_v3) for name, child in out["properties"].items()
        }
    if out.get(EMBEDDED) and (is_v3 or not out.get(PRESERVE)):
        out["properties"] = {**(out.get("properties") or {}), **_meta_fields(prefix)}
        out["required"] = list(dict.fromkeys([*out.get("required", ()), "kind", "apiVersion"]))
    return out


def _simplify(node: Object) -> None:
    """Take out of one node what Swagger 2 lacks or kubectl misreads."""
    children = node.get("properties") or {}
    is_nullable, keeps_unknown = node.get("nullable"), node.get(PRESERVE)
    for key in _NOT_IN_V2:
        node.pop(key, None)
    if is_nullable or keeps_unknown:
        node.pop("items", None)
        node.pop("properties", None)
    if is_nullable or (keeps_unknown and node.get("type") == "object"):
        node.pop("type", None)
    if node.get("type") == "array" and "items" not in node:
        node.pop("type", None)
    required = [
        name for name in node.get("required", ()) if not children.get(name, {}).get("nullable")
    ]
    values = node.get("additionalProperties")
    if isinstance(values, dict) and values.get("nullable"):
        required = []
    if required:
        node["required"] = required
    else:
        node.pop("required", None)

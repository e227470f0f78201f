"""Ownership in custom resources, compiled from their structural schema."""

from __future__ import annotations

from typing import Any

from navarch.api.managedfields.fieldtypes import (
    ATOMIC,
    DEDUCED,
    Fields,
    FieldType,
    Items,
    KeyedItems,
    field_type,
)
from navarch.api.schema.facts import type_facts

Schema = dict[str, Any]


def custom_field_type(schema: Schema | None) -> FieldType:
    """The ownership of a custom resource, by its `openAPIV3Schema` (None: deduced)."""
    if schema is None:
        root = Fields(DEDUCED)
    else:
        compiled = _compile(schema)
        root = compiled if isinstance(compiled, Fields) else Fields(DEDUCED)
    _declare_envelope(root)
    return root


def _declare_envelope(fields: Fields) -> None:
    fields.declare("apiVersion", ATOMIC)
    fields.declare("kind", ATOMIC)
    fields.declare("metadata", field_type(type_facts("meta_v1", "ObjectMeta")))


def _compile(schema: Schema) -> FieldType:
    if schema.get("x-kubernetes-int-or-string"):
        return ATOMIC
    kind = schema.get("type")
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields")
    if kind == "array":
        return _compile_list(schema)
    if kind == "object" or schema.get("properties"):
        return _compile_object(schema)
    return DEDUCED if keeps_unknown and not kind else ATOMIC


def _compile_object(schema: Schema) -> FieldType:
    if schema.get("x-kubernetes-map-type") == "atomic":
        return ATOMIC
    rest: FieldType | None = None
    values = schema.get("additionalProperties")
    if isinstance(values, dict):
        rest = _compile(values)
    elif values or schema.get("x-kubernetes-preserve-unknown-fields"):
        rest = DEDUCED
    result = Fields(rest)
    for name, below in (schema.get("properties") or {}).items():
        result.declare(name, _compile(below))
    if schema.get("x-kubernetes-embedded-resource"):
        _declare_envelope(result)
    return result


def _compile_list(schema: Schema) -> FieldType:
    kind, items = schema.get("x-kubernetes-list-type"), schema.get("items") or {}
    if kind == "set":
        return Items()
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    if kind != "map" or not keys:
        return ATOMIC
    properties = items.get("properties") or {}
    defaults = {
        key: properties[key]["default"]
        for key in keys
        if properties.get(key, {}).get("default") is not None
    }
    result = KeyedItems(tuple(keys), defaults)
    result.item = _compile(items)
    return result

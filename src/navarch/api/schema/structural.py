"""Structural schemas of custom resources: pruning, defaults and validation of values.

Works on the schema as the CustomResourceDefinition spells it (OpenAPI v3 with the x-kubernetes
extensions). Three walks, in this order: `prune` drops what the schema does not know, `default`
fills in, `validate` complains in the words of upstream's validator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from navarch.api.errors import (
    FieldError,
    duplicate,
    invalid,
    not_supported,
    render_value,
    required,
    too_long,
)
from navarch.api.patch.common import copy_json, json_equal
from navarch.api.regex import PatternError, search
from navarch.api.schema.formats import has_format

Object = dict[str, Any]
Schema = dict[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
EMBEDDED = "x-kubernetes-embedded-resource"
INT_OR_STRING = "x-kubernetes-int-or-string"

_ROOT_FIELDS = ("apiVersion", "kind", "metadata")


def child_path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def has_rules(schema: Schema) -> bool:
    """Whether there are validation rules anywhere."""
    below = [schema.get("items"), schema.get("additionalProperties")]
    below += (schema.get("properties") or {}).values()
    return bool(schema.get("x-kubernetes-validations")) or any(
        isinstance(each, dict) and has_rules(each) for each in below
    )


# ---- pruning


def prune(value: Any, schema: Schema, path: str = "", is_root: bool = True) -> list[str]:
    """Drop unknown fields in place; returns their paths, sorted."""
    unknown: list[str] = []
    _prune(value, schema, path, unknown, is_root)
    return sorted(unknown)


def _prune(value: Any, schema: Schema, path: str, unknown: list[str], is_object: bool) -> None:
    if isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, dict):
            for index, item in enumerate(value):
                _prune(item, items, f"{path}[{index}]", unknown, False)
        return
    if not isinstance(value, dict):
        return
    is_object = is_object or bool(schema.get(EMBEDDED))
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    keeps = bool(schema.get(PRESERVE)) or extra is True
    for name in list(value):
        if is_object and name in _ROOT_FIELDS:
            continue
        below = child_path(path, name)
        if name in properties:
            _prune(value[name], properties[name], below, unknown, False)
        elif isinstance(extra, dict):
            _prune(value[name], extra, below, unknown, False)
        elif not keeps:
            del value[name]
            unknown.append(below)


def embedded_objects(value: Any, schema: Schema, path: str = "") -> Iterator[tuple[str, Object]]:
    """Paths and values of all objects that the schema embeds."""
    if isinstance(value, dict):
        if schema.get(EMBEDDED):
            yield path, value
        properties = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        for name, item in value.items():
            inner = properties.get(name) or (extra if isinstance(extra, dict) else None)
            if inner:
                yield from embedded_objects(item, inner, child_path(path, name))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            yield from embedded_objects(item, schema["items"], f"{path}[{index}]")


# ---- defaults


def default(value: Any, schema: Schema) -> None:
    """Fill in defaults, in place. A null where null is not allowed makes room for one."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for name, inner in properties.items():
            if "default" not in inner:
                continue
            if name not in value or (value[name] is None and not inner.get("nullable")):
                value[name] = copy_json(inner["default"])
        extra = schema.get("additionalProperties")
        for name, item in value.items():
            inner = properties.get(name) or (extra if isinstance(extra, dict) else None)
            if inner:
                default(item, inner)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            default(item, schema["items"])


def has_defaults(schema: Schema) -> bool:
    """Whether a default is anywhere in a schema."""
    inner = [*(schema.get("properties") or {}).values(), schema.get("items")]
    inner.append(schema.get("additionalProperties"))
    return "default" in schema or any(has_defaults(each) for each in inner if type(each) is dict)


def drop_nulls(value: Any, schema: Schema) -> None:
    """Nulls where the schema allows none count as absent."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for name in [name for name, item in value.items() if item is None]:
            inner = properties.get(name) or {}
            if "default" in inner and not inner.get("nullable"):
                del value[name]
        for name, item in value.items():
            if name in properties:
                drop_nulls(item, properties[name])
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for item in value:
            drop_nulls(item, schema["items"])


# ---- validation


def validate(value: Any, schema: Schema, path: str = "") -> list[FieldError]:
    """Complaints about a value."""
    errors: list[FieldError] = []
    if value is None:
        if schema.get("nullable") or not schema.get("type"):
            return errors
        return [_type_error(path, value, schema["type"])]
    if not _has_type(value, schema):
        return [_type_error(path, value, _wanted_type(schema))]
    errors += _value_errors(value, schema, path)
    if isinstance(value, dict):
        errors += _object_errors(value, schema, path)
    elif isinstance(value, list):
        errors += _list_errors(value, schema, path)
    errors += _logic_errors(value, schema, path)
    return errors


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: (
        type(value) is int or (isinstance(value, float) and value.is_integer())
    ),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def _has_type(value: Any, schema: Schema) -> bool:
    if schema.get(INT_OR_STRING):
        return isinstance(value, str) or type(value) is int
    wanted = schema.get("type")
    return not wanted or wanted not in _TYPES or _TYPES[wanted](value)


def _wanted_type(schema: Schema) -> str:
    return "integer,string" if schema.get(INT_OR_STRING) else str(schema.get("type"))


def _type_name(value: Any) -> str:
    for name in ("object", "array", "string", "boolean", "integer", "number"):
        if _TYPES[name](value):
            return name
    return "null"


def _type_error(path: str, value: Any, wanted: str) -> FieldError:
    name = _type_name(value)
    text = f'Invalid value: "{name}": {_in_body(path)} must be of type {wanted}: "{name}"'
    return FieldError("FieldValueTypeInvalid", path or "<nil>", text)


def _in_body(path: str) -> str:
    return f"{path} in body" if path else "in body"


def _value_errors(value: Any, schema: Schema, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    choices = schema.get("enum")
    if choices is not None and not any(json_equal(value, each) for each in choices):
        shown = [each if isinstance(each, str) else render_value(each) for each in choices]
        errors.append(not_supported(path, value, shown))
    if isinstance(value, str):
        errors += _string_errors(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        errors += _number_errors(value, schema, path)
    return errors


def _string_errors(value: str, schema: Schema, path: str) -> list[FieldError]:
    errors = []
    where = _in_body(path)
    longest, shortest = schema.get("maxLength"), schema.get("minLength")
    if longest is not None and len(value) > longest:
        errors.append(too_long(path, longest))
    if shortest is not None and len(value) < shortest:
        errors.append(invalid(path, value, f"{where} should be at least {shortest} chars long"))
    pattern = schema.get("pattern")
    if pattern:
        try:
            if not search(pattern, value):
                errors.append(invalid(path, value, f"{where} should match '{pattern}'"))
        except PatternError as error:
            errors.append(invalid(path, value, str(error)))
    name = schema.get("format") or ""
    if name and not has_format(value, name):
        shown = render_value(value)
        text = f"Invalid value: {shown}: {where} must be of type {name}: {shown}"
        errors.append(FieldError("FieldValueTypeInvalid", path, text))
    return errors


def _number_errors(value: int | float, schema: Schema, path: str) -> list[FieldError]:
    errors = []
    where = _in_body(path)
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if lowest is not None:
        strict = schema.get("exclusiveMinimum")
        if value < lowest or (strict and value == lowest):
            text = "greater than" if strict else "greater than or equal to"
            errors.append(invalid(path, value, f"{where} should be {text} {lowest:g}"))
    if highest is not None:
        strict = schema.get("exclusiveMaximum")
        if value > highest or (strict and value == highest):
            text = "less than" if strict else "less than or equal to"
            errors.append(invalid(path, value, f"{where} should be {text} {highest:g}"))
    step = schema.get("multipleOf")
    if step and (value / step) % 1:
        errors.append(invalid(path, value, f"{where} should be a multiple of {step:g}"))
    bounds = _INTEGER_FORMATS.get(schema.get("format", ""))
    if bounds and not bounds[0] <= value <= bounds[1]:
        errors.append(invalid(path, value, f"{where} must be of type {schema['format']}"))
    return errors


_INTEGER_FORMATS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


def _object_errors(value: Object, schema: Schema, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in schema.get("required") or ():
        if name not in value:
            errors.append(required(child_path(path, name)))
    most, least = schema.get("maxProperties"), schema.get("minProperties")
    where = _in_body(path)
    if most is not None and len(value) > most:
        errors.append(invalid(path, len(value), f"{where} should have at most {most} properties"))
    if least is not None and len(value) < least:
        errors.append(invalid(path, len(value), f"{where} should have at least {least} properties"))
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    for name, item in value.items():
        inner = properties.get(name)
        if inner is None and isinstance(extra, dict):
            inner = extra
        if inner:
            errors += validate(item, inner, child_path(path, name))
    return errors


def _list_errors(value: list[Any], schema: Schema, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    most, least = schema.get("maxItems"), schema.get("minItems")
    where = _in_body(path)
    if most is not None and len(value) > most:
        text = f"Too many: {len(value)}: must have at most {most} items"
        errors.append(FieldError("FieldValueTooMany", path, text))
    if least is not None and len(value) < least:
        errors.append(invalid(path, len(value), f"{where} should have at least {least} items"))
    items = schema.get("items")
    if isinstance(items, dict):
        for index, item in enumerate(value):
            errors += validate(item, items, f"{path}[{index}]")
    kind = schema.get("x-kubernetes-list-type")
    if kind in ("set", "map"):
        keys = schema.get("x-kubernetes-list-map-keys") or ()
        seen: set[str] = set()
        for index, item in enumerate(value):
            shown = item
            if kind == "map" and isinstance(item, dict):
                shown = {key: item[key] for key in keys if key in item}
            text = render_value(shown)
            if text in seen:
                errors.append(duplicate(f"{path}[{index}]", shown))
            seen.add(text)
    return errors


def _logic_errors(value: Any, schema: Schema, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    where = _in_body(path)
    for inner in schema.get("allOf") or ():
        errors += validate(value, inner, path)
    some = schema.get("anyOf")
    if some and all(validate(value, inner, path) for inner in some):
        errors.append(invalid(path, value, f"{where} must validate at least one schema (anyOf)"))
    one = schema.get("oneOf")
    if one and sum(not validate(value, inner, path) for inner in one) != 1:
        text = f"{where} must validate one and only one schema (oneOf)"
        errors.append(invalid(path, value, text))
    refused = schema.get("not")
    if refused is not None and not validate(value, refused, path):
        errors.append(invalid(path, value, f"{where} must not validate the schema (not)"))
    return errors

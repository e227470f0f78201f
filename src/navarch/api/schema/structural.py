"""Structural schemas of custom resources: pruning, defaults and validation of values.

Works on the schema as the CustomResourceDefinition spells it (OpenAPI v3 with the x-kubernetes
extensions). Three walks, in this order: `prune` drops what the schema does not know, `default`
fills in, `validate` complains in the words of upstream's validator.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import NoneType
from typing import Any

from navarch.api import names
from navarch.api.errors import (
    FieldError,
    duplicate,
    invalid,
    not_supported,
    render_value,
    required,
    too_long,
    too_many,
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
    """Fields that `additionalProperties: true` lets in are known, but nothing below them is."""
    if isinstance(value, list):
        items = schema.get("items")
        if not isinstance(items, dict):
            if schema.get(PRESERVE):
                return
            items = {}
        elif schema.get(PRESERVE):
            items = {**items, PRESERVE: True}
        for index, item in enumerate(value):
            _prune(item, items, f"{path}[{index}]", unknown, False)
        return
    if not isinstance(value, dict):
        return
    is_object = is_object or bool(schema.get(EMBEDDED))
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    keeps = bool(schema.get(PRESERVE))
    for name in list(value):
        if is_object and name in _ROOT_FIELDS:
            continue
        below = child_path(path, name)
        if name in properties:
            _prune(value[name], properties[name], below, unknown, False)
        elif extra is not None:
            _prune(value[name], extra if isinstance(extra, dict) else {}, below, unknown, False)
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


def embedded_errors(obj: Object, path: str) -> list[FieldError]:
    """Complaints about what every object has, for one inside of another."""
    errors = [required(f"{path}.{key}") for key in ("apiVersion", "kind") if key not in obj]
    version, kind = obj.get("apiVersion"), obj.get("kind")
    if version is not None and (not version or version.count("/") > 1):
        detail = f"unexpected GroupVersion string: {version}" if version else "must not be empty"
        errors.append(invalid(f"{path}.apiVersion", version, detail))
    if kind is not None and (problems := names.dns1035_label(kind.lower())):
        detail = f"may have mixed case, but should otherwise match: {','.join(problems)}"
        errors.append(invalid(f"{path}.kind", kind, detail if kind else "must not be empty"))
    metadata = obj.get("metadata")
    if isinstance(metadata, dict):
        from navarch.api.validation.meta import validate_object_meta  # late: it imports widely

        named = {**metadata, "name": metadata.get("name") or "fakename"}
        is_in_namespace = bool(metadata.get("namespace"))
        rule, below = names.path_segment_name, f"{path}.metadata"
        errors += validate_object_meta(named, is_in_namespace, rule, below)
    return errors


# ---- defaults


def default(value: Any, schema: Schema) -> None:
    """Fill in defaults, in place. A null where null is not allowed makes room for one."""
    if isinstance(value, dict):
        for name, inner in (schema.get("properties") or {}).items():
            if "default" in inner and name not in value:
                value[name] = None if inner.get("nullable") and inner["default"] is None else _SLOT
    for key, inner in _parts(value, schema):
        item = value[key]
        if item is _SLOT or (item is None and not inner.get("nullable")):
            value[key] = copy_json(inner.get("default"))
        default(value[key], inner)


_SLOT = object()


def _parts(value: Any, schema: Schema) -> list[tuple[Any, Schema]]:
    """The keys or indexes of a value's parts that have a schema, with it."""
    if isinstance(value, list):
        items = schema.get("items")
        return [(i, items) for i in range(len(value))] if isinstance(items, dict) else []
    if not isinstance(value, dict):
        return []
    properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    pairs = ((name, properties.get(name, extra)) for name in value)
    return [(name, inner) for name, inner in pairs if isinstance(inner, dict)]


def has_defaults(schema: Schema) -> bool:
    """Whether a default is anywhere in a schema."""
    inner = [*(schema.get("properties") or {}).values(), schema.get("items")]
    inner.append(schema.get("additionalProperties"))
    return "default" in schema or any(has_defaults(each) for each in inner if type(each) is dict)


def drop_nulls(value: Any, schema: Schema) -> None:
    """Fields that are null where null is not allowed count as absent, unless there is a default
    for them. Items of lists stay: their places are counted."""
    for key, inner in _parts(value, schema):
        if value[key] is not None:
            drop_nulls(value[key], inner)
        elif isinstance(value, dict) and not inner.get("nullable") and not inner.get("default"):
            del value[key]


def plain_numbers(value: Any) -> Any:
    """A document's numbers as they are kept: whole ones as integers, those beyond 64 bits as
    floating point. Returns the value, changed in place where it is no number."""
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = plain_numbers(item)
    elif isinstance(value, list):
        value[:] = map(plain_numbers, value)
    elif type(value) is float and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    elif type(value) is int and not -(2**63) <= value < 2**63:
        return float(value)
    return value


_EXACT = 2**53 - 1  # the largest whole number that JSON promises to keep


# ---- validation


def validate(value: Any, schema: Schema, path: str = "") -> list[FieldError]:
    """Complaints about a value. Of the wrong type or not, it is held to all the rest as well."""
    errors = [*_type_errors(value, schema, path)]
    if value is not None:
        errors += _logic_errors(value, schema, path)
        if isinstance(value, str):
            errors += _string_errors(value, schema, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            errors += _number_errors(value, schema, path)
        elif isinstance(value, dict):
            errors += _object_errors(value, schema, path)
        elif isinstance(value, list):
            errors += _list_errors(value, schema, path)
    choices = schema.get("enum")
    if choices and not any(json_equal(value, each) for each in choices):
        shown = [each if isinstance(each, str) else render_value(each) for each in choices]
        errors.append(not_supported(path, value, shown))
    return errors


_TYPES: dict[type, tuple[str, str]] = {
    dict: ("object", ""),
    list: ("array", ""),
    str: ("string", ""),
    bool: ("boolean", ""),
    int: ("integer", "int64"),
    float: ("number", "float64"),
    type(None): ("null", ""),
}


def _type_errors(value: Any, schema: Schema, path: str) -> Iterator[FieldError]:
    """At most one: a value has not the type, or, if it is no text and no list, not the format."""
    kind, wanted = schema.get("type"), [schema.get("type") or ""]
    if schema.get(INT_OR_STRING):
        wanted = ["integer", "string"]
    elif not kind:
        return
    name, form = _TYPES[type(value)]
    if value is None:
        is_right = bool(schema.get("nullable"))
    else:
        is_whole = type(value) is float and value.is_integer() and abs(value) <= _EXACT
        is_right = (
            name in wanted
            or (name == "integer" and "number" in wanted)
            or (is_whole and "integer" in wanted)
        )
        format_wanted = schema.get("format")
        if format_wanted and isinstance(value, str | list):
            is_right = is_right or kind not in ("number", "integer")
        elif format_wanted and not is_right:
            yield _type_error(path, form, format_wanted)
            return
    if not is_right:
        yield _type_error(path, name, ",".join(wanted))


def _type_error(path: str, name: str, wanted: str) -> FieldError:
    text = f'Invalid value: "{name}": {_in_body(path)} must be of type {wanted}: "{name}"'
    return FieldError("FieldValueTypeInvalid", path or "<nil>", text)


def _in_body(path: str) -> str:
    return f"{path} in body" if path else "in body"


def _string_errors(value: str, schema: Schema, path: str) -> list[FieldError]:
    """The first of length and pattern that the text does not have, and its format."""
    errors = []
    where = _in_body(path)
    longest, shortest = schema.get("maxLength"), schema.get("minLength")
    pattern = schema.get("pattern")
    if longest is not None and len(value) > longest:
        errors.append(too_long(path, longest))
    elif shortest is not None and len(value) < shortest:
        errors.append(invalid(path, value, f"{where} should be at least {shortest} chars long"))
    elif pattern:
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
    """A whole number is compared as one: what its bounds have behind the point is cut off, unless
    the type alone makes it whole."""
    errors = []
    where = _in_body(path)
    if not _is_in_range(value, schema):
        errors.append(_range_error("Checked", schema, path))

    def bound(key: str, what: str) -> int | float | None:
        found: int | float | None = schema.get(key)
        if found is not None and not _is_in_range(found, schema):
            errors.append(_range_error(what, schema, path))
            return found
        return int(found) if found is not None and type(value) is int else found

    step = bound("multipleOf", "MultipleOf")
    if step is not None and step <= 0:
        detail = f"factor MultipleOf declared for {path} must be positive: {step:g}"
        errors.append(invalid(path, step, detail))
    elif step is not None and not _is_multiple(value, step):
        errors.append(invalid(path, value, f"{where} should be a multiple of {step:g}"))
    highest = bound("maximum", "Maximum boundary")
    if highest is not None:
        strict = schema.get("exclusiveMaximum")
        if value > highest or (strict and value == highest):
            text = "less than" if strict else "less than or equal to"
            errors.append(invalid(path, value, f"{where} should be {text} {highest:g}"))
    lowest = bound("minimum", "Minimum boundary")
    if lowest is not None:
        strict = schema.get("exclusiveMinimum")
        if value < lowest or (strict and value == lowest):
            text = "greater than" if strict else "greater than or equal to"
            errors.append(invalid(path, value, f"{where} should be {text} {lowest:g}"))
    return errors


def _is_multiple(value: int | float, step: int | float) -> bool:
    if type(value) is int:
        return value % step == 0
    times = value / step if step >= 1 else 1 / step * value
    return abs(times) <= _EXACT and abs(times - round(times)) <= 1e-9 * max(1.0, abs(times))


_BITS = {"int32": 31, "int64": 63, "uint32": 32, "uint64": 64}
_FLOAT32_MAX = 3.4028235677973366e38


def _is_in_range(value: int | float, schema: Schema) -> bool:
    """Whether a number is one of the schema's type and format."""
    form = schema.get("format") or ""
    if schema.get("type") == "integer":
        bits = _BITS.get(form, 63)
        low = 0 if form.startswith("u") else -(2**bits)
        return value == int(value) and low <= value < 2**bits
    return form != "float" or abs(value) < _FLOAT32_MAX


def _range_error(what: str, schema: Schema, path: str) -> FieldError:
    form = schema.get("format")
    shown = f"with format {form}" if form else "(default format)"
    return _unplaced(f"{what} value must be of type {schema.get('type')} {shown} in {path}")


def _unplaced(text: str) -> FieldError:
    """A complaint that names its place in its text alone."""
    return invalid("<nil>", "", text)


def _object_errors(value: Object, schema: Schema, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in schema.get("required") or ():
        if name not in value:
            errors.append(required(child_path(path, name)))
    most, least = schema.get("maxProperties"), schema.get("minProperties")
    where = _in_body(path)
    if most is not None and len(value) > most:
        errors.append(too_many(path, len(value), most))
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
        errors.append(too_many(path, len(value), most))
    if least is not None and len(value) < least:
        errors.append(invalid(path, len(value), f"{where} should have at least {least} items"))
    items = schema.get("items")
    if isinstance(items, dict):
        for index, item in enumerate(value):
            errors += validate(item, items, f"{path}[{index}]")
    return errors


def _logic_errors(value: Any, schema: Schema, path: str) -> list[FieldError]:
    """When no alternative fits, what is wrong with the first is told too."""
    errors: list[FieldError] = []
    some = [validate(value, inner, path) for inner in schema.get("anyOf") or ()]
    if some and all(some):
        errors.append(_unplaced(f'"{path}" must validate at least one schema (anyOf)'))
        errors += some[0]
    one = [validate(value, inner, path) for inner in schema.get("oneOf") or ()]
    fitting = sum(not each for each in one)
    if one and fitting != 1:
        found = f"{fitting} valid alternatives" if fitting else "none valid"
        text = f'"{path}" must validate one and only one schema (oneOf). Found {found}'
        errors += [_unplaced(text), *one[0][: 0 if fitting else None]]
    every = [validate(value, inner, path) for inner in schema.get("allOf") or ()]
    errors += itertools.chain.from_iterable(every)
    if any(every):
        note = ". None validated" if all(every) else ""
        errors.append(_unplaced(f'"{path}" must validate all the schemas (allOf){note}'))
    refused = schema.get("not")
    if refused is not None and not validate(value, refused, path):
        errors.append(_unplaced(f'"{path}" must not validate the schema (not)'))
    return errors


def list_errors(value: Any, schema: Schema, path: str = "") -> list[FieldError]:
    """Doubled items of lists that are sets or maps, at their first repetition."""
    errors: list[FieldError] = []
    kind = schema.get("x-kubernetes-list-type")
    if isinstance(value, list) and kind in ("set", "map"):
        keys = schema.get("x-kubernetes-list-map-keys") or ()
        odd = (i for i, item in enumerate(value) if not isinstance(item, dict | NoneType))
        place = next(odd, None) if kind == "map" else None
        seen: dict[str, int] = {}
        if place is not None:
            detail = "must be an object for an array of list-type map"
            errors.append(invalid(f"{path}[{place}]", value[place], detail))
        for index, item in enumerate(value if place is None else ()):
            shown = item
            if kind == "map":
                shown = {key: item[key] for key in sorted(keys) if key in (item or ())}
            text = render_value(shown)
            seen[text] = seen.get(text, 0) + 1
            if seen[text] == 2:
                errors.append(duplicate(f"{path}[{index}]", shown))
    properties = schema.get("properties") or {}
    for key, inner in _parts(value, schema):
        if isinstance(value, list):
            below = f"{path}[{key}]"
        else:
            below = child_path(path, key) if key in properties else f"{path}[{key}]"
        errors += list_errors(value[key], inner, below)
    return errors

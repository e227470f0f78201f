"""Schemas as CEL sees them: the type of every node, how large its values may get, and its values.

Works on OpenAPI v3 schemas with the x-kubernetes extensions, as CustomResourceDefinitions spell
them. Names of properties that CEL could not read are escaped (`x-y` is `x__dash__y`); what has no
type, or a name that cannot be escaped, is not there for expressions. Values are decoded when they
are looked at: times, durations and bytes are what their `format` says, lists of list-type `set` and
`map` compare and add up as such. (KEP-2876)
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from navarch.api.cel import types as t
from navarch.api.cel.conversions import parse_duration, parse_timestamp
from navarch.api.cel.costs import Estimate
from navarch.api.cel.errors import EvaluationError
from navarch.api.cel.types import CelType
from navarch.api.cel.values import MISSING, Duration, ListValue, ObjectValue, equals
from navarch.api.patch.common import json_equal
from navarch.api.schema.formats import unit_nanoseconds

Schema = dict[str, Any]

MAX_REQUEST = 3 * 1024 * 1024
MAX_TEXT = MAX_REQUEST - 2
INT_OR_STRING = "x-kubernetes-int-or-string"
EMBEDDED = "x-kubernetes-embedded-resource"
PRESERVE = "x-kubernetes-preserve-unknown-fields"

_STRING: Schema = {"type": "string"}
_METADATA: Schema = {"type": "object", "properties": {"name": _STRING, "generateName": _STRING}}

# ---- names of properties

_WORDS = (
    "true false null in as break const continue else for function if import let loop package "
    "namespace return var void while"
)
RESERVED = frozenset(_WORDS.split())
_ESCAPED = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_TO_ESCAPE = re.compile("__|[./-]")
_PLAIN = re.compile("[a-zA-Z_./-][a-zA-Z0-9_./-]*")
_UNESCAPED = {escaped: plain for plain, escaped in _ESCAPED.items()}
_TO_UNESCAPE = re.compile("__[^_]+__")


def escape(name: str) -> str | None:
    """How a property is called in expressions; None if it cannot be called."""
    if name in RESERVED:
        return f"__{name}__"
    if not _PLAIN.fullmatch(name):
        return None
    return _TO_ESCAPE.sub(lambda match: _ESCAPED[match[0]], name)


def unescape(name: str) -> str:
    if name.startswith("__") and name[2:-2] in RESERVED and name.endswith("__"):
        return name[2:-2]
    return _TO_UNESCAPE.sub(lambda match: _UNESCAPED.get(match[0], match[0]), name)


# ---- types


@dataclass(slots=True)
class Declared:
    """A node of a schema: its type, the least bytes a value takes, and the largest size it has."""

    schema: Schema
    type: CelType
    min_size: int = 1
    max_elements: int = 0
    element: Declared | None = None
    """Of the items of a list or the values of a map."""
    fields: dict[str, Declared] = field(default_factory=dict)
    """By their escaped names."""

    def size_hint(self, path: tuple[str, ...], type: CelType) -> Estimate | None:
        """The size of what a path (starting with the variable) leads to."""
        node: Declared | None = self
        for step in path[1:]:
            if node is None:
                return None
            if step == "@keys":
                # Keys are strings of no declared length.
                return Estimate(0, 0) if node.element is not None else None
            node = node.element if step in ("@items", "@values") else node.fields.get(step)
        return Estimate(0, node.max_elements) if node is not None else None


def with_metadata(schema: Schema) -> Schema:
    """The schema of a whole object, which has a kind, an apiVersion and a name."""
    properties = schema.get("properties") or {}
    own = (properties.get("metadata") or {}).get("properties") or {}
    if {"apiVersion", "kind"} <= properties.keys() and {"name", "generateName"} <= own.keys():
        return schema
    named = {"apiVersion": _STRING, "kind": _STRING, "metadata": _METADATA}
    return {**schema, "properties": {**properties, **named}}


def declare(schema: Schema, is_root: bool = False, name: str = "selfType") -> Declared | None:
    """What CEL knows of a schema; None if it can say nothing of its values. `is_root` for a whole
    object; `name` becomes the name of its type."""
    if schema.get(INT_OR_STRING):
        return Declared(schema, t.DYN, 1, _text_size(schema))
    if is_root or schema.get(EMBEDDED):
        schema = with_metadata(schema)
    kind = schema.get("type")
    if kind == "array":
        return _declare_list(schema, name)
    if kind == "object":
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            return _declare_map(schema, extra, name)
        return _declare_object(schema, name)
    if kind == "string":
        return _declare_string(schema)
    return _SCALARS[kind](schema) if kind in _SCALARS else None


_SCALARS: dict[Any, Callable[[Schema], Declared]] = {
    "boolean": lambda schema: Declared(schema, t.BOOL, 4),
    "number": lambda schema: Declared(schema, t.DOUBLE, 1),
    "integer": lambda schema: Declared(schema, t.INT, 1),
}


def _declare_list(schema: Schema, name: str) -> Declared | None:
    items = schema.get("items")
    element = declare(items, name=f"{name}.@idx") if isinstance(items, dict) else None
    if element is None:
        return None
    most = schema.get("maxItems")
    count = max(most, 0) if most is not None else MAX_TEXT // (element.min_size + 1)
    return Declared(schema, t.list_of(element.type), 2, count, element)


def _declare_map(schema: Schema, values: Schema, name: str) -> Declared | None:
    element = declare(values, name=f"{name}.@elem")
    if element is None:
        return None
    most = schema.get("maxProperties")
    count = max(most, 0) if most is not None else MAX_TEXT // (element.min_size + 6)
    return Declared(schema, t.map_of(t.STRING, element.type), 2, count, element)


def _declare_object(schema: Schema, name: str) -> Declared:
    fields: dict[str, Declared] = {}
    required = schema.get("required") or ()
    size = 2
    for property, inner in (schema.get("properties") or {}).items():
        escaped = escape(property)
        found = declare(inner, name=f"{name}.{escaped or property}")
        if found is None:
            continue
        if escaped is not None:
            fields[escaped] = found
        if property in required and inner.get("default") is None:
            size += len(property) + found.min_size + 4
    types = {each: found.type for each, found in fields.items()}
    # A reserved word can be written as it is after a dot, where the parser takes it.
    types |= {unescape(each): types[each] for each in types if unescape(each) in RESERVED}
    return Declared(schema, t.object_type(name, types), size, 0, None, fields)


_FORMATS = {
    "duration": (t.DURATION, 3, 32),
    "date": (t.TIMESTAMP, 12, 12),
    "date-time": (t.TIMESTAMP, 21, 32),
}


def _declare_string(schema: Schema) -> Declared:
    kind = schema.get("format")
    if kind in _FORMATS:
        return Declared(schema, *_FORMATS[kind])
    longest = schema.get("maxLength")
    if kind == "byte":
        return Declared(schema, t.BYTES, 2, MAX_TEXT if longest is None else max(longest, 0))
    if longest is None and schema.get("enum"):
        texts = [each for each in schema["enum"] if isinstance(each, str)]
        return Declared(schema, t.STRING, 2, max((len(each.encode()) for each in texts), default=0))
    return Declared(schema, t.STRING, 2, _text_size(schema))


def _text_size(schema: Schema) -> int:
    longest = schema.get("maxLength")
    return MAX_TEXT if longest is None else max(longest, 0) * 4


# ---- values


def value_of(raw: Any, schema: Schema) -> Any:
    """A JSON value as its schema says it. Raises EvaluationError for what does not fit."""
    if raw is None:
        if schema.get("nullable"):
            return None
        raise EvaluationError("invalid data, got null for schema with nullable=false")
    if schema.get(INT_OR_STRING):
        if isinstance(raw, str) or type(raw) is int:
            return raw
        raise EvaluationError(
            "invalid data, expected XIntOrString value to be either a string or integer"
        )
    convert = _CONVERTERS.get(schema.get("type"))
    if convert is not None:
        return convert(raw, schema)
    if schema.get(PRESERVE):
        return Unknown(raw)
    kind = schema.get("type") or ""
    raise EvaluationError(
        "invalid type, expected object, array, number, integer, boolean or string, or no type with "
        "x-kubernetes-int-or-string or x-kubernetes-preserve-unknown-fields is true, "
        f"got {kind}"
    )


def _unexpected(wanted: str) -> EvaluationError:
    return EvaluationError(f"invalid data, expected {wanted}")


class Unknown(ObjectValue):
    """A value of which the schema says nothing: it can be compared, no more."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    @property
    def cel_type(self) -> CelType:
        return t.DYN

    def get(self, name: str) -> Any:
        return MISSING

    def cel_equals(self, other: Any) -> bool:
        return bool(json_equal(self.raw, to_json(other)))


class SchemaObject(ObjectValue):
    """An object with declared properties."""

    def __init__(self, raw: dict[str, Any], schema: Schema) -> None:
        self.raw = raw
        self.properties: dict[str, Schema] = schema.get("properties") or {}
        self._known: dict[str, Any] = {}

    @property
    def cel_type(self) -> CelType:
        return t.MAP

    def get(self, name: str) -> Any:
        """The property of this (escaped) name; null counts as absent."""
        if name in self._known:
            return self._known[name]
        own = unescape(name)
        raw, schema = self.raw.get(own), self.properties.get(own)
        value = MISSING if raw is None or schema is None else value_of(raw, schema)
        self._known[name] = value
        return value

    def cel_equals(self, other: Any) -> bool:
        if not isinstance(other, SchemaObject) or len(self.raw) != len(other.raw):
            return False
        for name, raw in self.raw.items():
            if name in self.properties:
                own, its = self.get(name), other.get(name)
                if (own is MISSING) is not (its is MISSING):
                    return False
                if own is not MISSING and not equals(own, its):
                    return False
            elif name in other.raw and not json_equal(raw, other.raw[name]):
                return False
        return True


def _object(raw: Any, schema: Schema) -> Any:
    if not isinstance(raw, dict):
        raise _unexpected("a map for the provided schema with type=object")
    extra = schema.get("additionalProperties")
    if schema.get(EMBEDDED):
        schema = with_metadata(schema)
    elif isinstance(extra, dict) and not schema.get("properties"):
        if _is_plain(extra):
            return raw
        return {key: value_of(value, extra) for key, value in raw.items()}
    return SchemaObject(raw, schema)


def _is_plain(schema: Schema) -> bool:
    """Whether a value of the schema is its own JSON."""
    kind = schema.get("type")
    if schema.get("nullable") or schema.get(INT_OR_STRING):
        return False
    return kind in ("boolean", "integer") or (
        kind == "string" and schema.get("format") not in (*_FORMATS, "byte")
    )


class SetList(ListValue):
    """A list in which order does not matter and nothing is twice."""

    @cached_property
    def _members(self) -> set[bytes]:
        return set(map(_identity, self))

    def cel_equals(self, other: list[Any]) -> bool:
        return len(self) == len(other) and all(_identity(each) in self._members for each in other)

    def cel_concat(self, other: list[Any]) -> SetList:
        merged = SetList(self)
        seen = set(self._members)
        for each in other:
            identity = _identity(each)
            if identity not in seen:
                seen.add(identity)
                merged.append(each)
        return merged


class MapList(ListValue):
    """A list of objects that are known by some of their properties."""

    def __init__(self, values: list[Any], keys: tuple[str, ...]) -> None:
        super().__init__(values)
        self.keys = keys

    def _key(self, value: Any) -> bytes:
        raw = to_json(value)
        return _identity([raw.get(key) if isinstance(raw, dict) else raw for key in self.keys])

    def cel_equals(self, other: list[Any]) -> bool:
        own = {self._key(each): each for each in self}
        if len(self) != len(other):
            return False
        for each in other:
            key = self._key(each)
            if key not in own or not equals(own[key], each):
                return False
        return True

    def cel_concat(self, other: list[Any]) -> MapList:
        merged = MapList(list(self), self.keys)
        places = {self._key(each): index for index, each in enumerate(self)}
        for each in other:
            place = places.get(self._key(each))
            if place is None:
                merged.append(each)
            else:
                merged[place] = each
        return merged


_encode = msgspec.json.Encoder(order="sorted").encode


def _identity(value: Any) -> bytes:
    return _encode(to_json(value))


def to_json(value: Any) -> Any:
    """A value as JSON would hold it."""
    if isinstance(value, SchemaObject | Unknown):
        return value.raw
    if isinstance(value, list):
        return [to_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def _list(raw: Any, schema: Schema) -> Any:
    if not isinstance(raw, list):
        raise _unexpected("an array for the provided schema with type=array")
    items = schema.get("items")
    if not isinstance(items, dict):
        raise EvaluationError("invalid array type, expected Items with a non-empty Schema")
    kind = schema.get("x-kubernetes-list-type") or "atomic"
    if kind == "atomic" and _is_plain(items):
        return raw
    values = [value_of(each, items) for each in raw]
    if kind == "set":
        return SetList(values)
    if kind == "map":
        return MapList(values, tuple(schema.get("x-kubernetes-list-map-keys") or ()))
    return values


_DURATION_PARTS = re.compile(r"([0-9]+)\s*([A-Za-zµ]+)")


def _duration(text: str) -> Duration:
    """Go's durations, and those of the OpenAPI library, which knows days and weeks."""
    try:
        return parse_duration(text)
    except EvaluationError:
        pass
    total, is_known = 0, False
    for number, unit in _DURATION_PARTS.findall(text):
        nanoseconds = unit_nanoseconds(unit)
        total, is_known = total + int(number) * nanoseconds, is_known or bool(nanoseconds)
    if not is_known or total >= 1 << 63:
        why = f'unable to parse "{text}" as duration'
        raise EvaluationError(f"Invalid duration {text}: {why}")
    return Duration(total)


def _text(raw: Any, schema: Schema) -> Any:
    if not isinstance(raw, str):
        raise _unexpected(f"string, got {_go_type(raw)}")
    kind = schema.get("format")
    if kind == "duration":
        return _duration(raw)
    if kind in ("date", "date-time"):
        try:
            return parse_timestamp(raw if kind == "date-time" else f"{raw}T00:00:00Z")
        except EvaluationError as error:
            raise EvaluationError(f"Invalid {kind} formatted string {raw}: {error}") from None
    if kind == "byte":
        try:
            return base64.b64decode(raw, validate=True)
        except binascii.Error as error:
            raise EvaluationError(f"Invalid byte formatted string {raw}: {error}") from None
    return raw


def _go_type(raw: Any) -> str:
    names = {bool: "bool", int: "int64", float: "float64", str: "string", list: "[]interface {}"}
    return names.get(type(raw), "map[string]interface {}")


def _number(raw: Any, schema: Schema) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise _unexpected(f"float, got {_go_type(raw)}")
    return float(raw)


def _integer(raw: Any, schema: Schema) -> int:
    if isinstance(raw, float) and raw.is_integer():
        return int(raw)
    if type(raw) is not int:
        raise _unexpected(f"int, got {_go_type(raw)}")
    return raw


def _boolean(raw: Any, schema: Schema) -> bool:
    if not isinstance(raw, bool):
        raise _unexpected(f"bool, got {_go_type(raw)}")
    return raw


_CONVERTERS: dict[Any, Callable[[Any, Schema], Any]] = {
    "object": _object,
    "array": _list,
    "string": _text,
    "number": _number,
    "integer": _integer,
    "boolean": _boolean,
}

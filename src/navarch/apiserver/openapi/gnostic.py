"""Swagger 2.0 as protobuf, in the messages of gnostic's `openapi.v2` package.

client-go reads `/openapi/v2` in no other form. A document is a sequence of fields, and a message
field that occurs twice is merged, so the document can be written piece by piece.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _flag(field: int, value: bool) -> bytes:
    return _varint(field << 3) + b"\x01" if value else b""


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _named(field: int, name: str, value: bytes) -> bytes:
    return _bytes(field, _text(1, name) + _bytes(2, value))


def _any(value: Any) -> bytes:
    """`Any` carries YAML, and JSON is YAML."""
    return _text(2, json.dumps(value))


def _extensions(field: int, obj: Object) -> bytes:
    return b"".join(
        _named(field, name, _any(value)) for name, value in obj.items() if name.startswith("x-")
    )


_SCHEMA_TEXTS = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13}
_SCHEMA_DOUBLES = {"multipleOf": 6, "maximum": 7, "minimum": 9}
_SCHEMA_FLAGS = {"exclusiveMaximum": 8, "exclusiveMinimum": 10, "uniqueItems": 16}
_SCHEMA_INTEGERS = {
    "maxLength": 11,
    "minLength": 12,
    "maxItems": 14,
    "minItems": 15,
    "maxProperties": 17,
    "minProperties": 18,
}


def encode_schema(schema: Object) -> bytes:
    """A `Schema` message."""
    out = [_text(number, schema[name]) for name, number in _SCHEMA_TEXTS.items() if name in schema]
    out += [
        _double(number, schema[name]) for name, number in _SCHEMA_DOUBLES.items() if name in schema
    ]
    out += [_flag(number, schema[name]) for name, number in _SCHEMA_FLAGS.items() if name in schema]
    out += [
        _integer(number, schema[name])
        for name, number in _SCHEMA_INTEGERS.items()
        if name in schema
    ]
    out += [_text(19, name) for name in schema.get("required", ())]
    out += [_bytes(20, _any(value)) for value in schema.get("enum", ())]
    values = schema.get("additionalProperties")
    if isinstance(values, Mapping):
        out.append(_bytes(21, _bytes(1, encode_schema(values))))
    elif values is not None:
        out.append(_bytes(21, _flag(2, True) if values else _varint(2 << 3) + b"\0"))
    if isinstance(schema.get("type"), str):
        out.append(_bytes(22, _text(1, schema["type"])))
    if isinstance(schema.get("items"), Mapping):
        out.append(_bytes(23, _bytes(1, encode_schema(schema["items"]))))
    properties = schema.get("properties")
    if properties:
        fields = (_named(1, name, encode_schema(child)) for name, child in properties.items())
        out.append(_bytes(25, b"".join(fields)))
    if "example" in schema:
        out.append(_bytes(30, _any(schema["example"])))
    out.append(_extensions(31, schema))
    return b"".join(out)


def _parameter(parameter: Object) -> bytes:
    """A `ParametersItem` message."""
    required = bool(parameter.get("required"))
    if parameter["in"] == "body":
        body = _text(2, parameter["name"]) + _text(3, "body") + _flag(4, required)
        return _bytes(1, _bytes(1, body + _bytes(5, encode_schema(parameter["schema"]))))
    is_query = parameter["in"] == "query"
    plain = _flag(1, required) + _text(2, parameter["in"])
    plain += _text(3, parameter.get("description", "")) + _text(4, parameter["name"])
    plain += _text(6 if is_query else 5, parameter.get("type", "string"))
    return _bytes(1, _bytes(2, _bytes(3 if is_query else 4, plain)))


def _response(response: Object) -> bytes:
    """A `ResponseValue` message."""
    inner = _text(1, response.get("description", ""))
    if "schema" in response:
        inner += _bytes(2, _bytes(1, encode_schema(response["schema"])))
    return _bytes(1, inner)


def _operation(operation: Object) -> bytes:
    out = [_text(1, tag) for tag in operation.get("tags", ())]
    out.append(_text(5, operation.get("operationId", "")))
    out += [_text(6, each) for each in operation.get("produces", ())]
    out += [_text(7, each) for each in operation.get("consumes", ())]
    out += [_bytes(8, _parameter(each)) for each in operation.get("parameters", ())]
    responses = (
        _named(1, code, _response(each)) for code, each in operation.get("responses", {}).items()
    )
    out.append(_bytes(9, b"".join(responses)))
    out.append(_extensions(13, operation))
    return b"".join(out)


_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "options": 6, "head": 7, "patch": 8}


def encode_header(title: str, version: str) -> bytes:
    """The document's first fields: the version of Swagger, and what this is."""
    return _text(1, "2.0") + _bytes(2, _text(1, title) + _text(2, version))


def encode_path(path: str, item: Object) -> bytes:
    """A path item, as a piece of the document."""
    inner = b"".join(
        _bytes(_METHODS[name], _operation(each)) if name in _METHODS else b""
        for name, each in item.items()
    )
    inner += b"".join(_bytes(9, _parameter(each)) for each in item.get("parameters", ()))
    return _bytes(8, _named(2, path, inner))


def encode_definition(name: str, schema: Object) -> bytes:
    """A definition, as a piece of the document."""
    return _bytes(9, _named(1, name, encode_schema(schema)))

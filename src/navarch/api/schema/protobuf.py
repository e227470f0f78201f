"""Protobuf request bodies as plain data.

Typed Go clients (kubectl's `create deployment`, `auth can-i`, ...) send their objects in protobuf
without asking first, and take JSON for an answer. So bodies are decoded here, and nothing is ever
encoded. The envelope is four magic bytes and a `runtime.Unknown`; field numbers are generated data.
What comes out is normalised like any JSON body afterwards, which drops Go's written-out zeros.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from navarch.api.errors import bad_request
from navarch.api.schema.decode import HasKind
from navarch.api.schema.facts import module_of
from navarch.api.times import format_micro_time, format_time

Object = dict[str, Any]
Message = dict[str, tuple[str, str]]

MAGIC = b"k8s\0"
MAX_DEPTH = 200
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Malformed(ValueError):
    """The bytes are no protobuf."""


@cache
def _messages() -> dict[str, dict[str, Message]]:
    path = files("navarch.api.schema") / "data" / "protobuf.json"
    loaded: dict[str, dict[str, Message]] = msgspec.json.decode(path.read_bytes())
    return loaded


def decode_protobuf(kind: HasKind, data: bytes) -> Object:
    """The object in a body, with the apiVersion and kind that its envelope names. Raises 400."""
    if not data.startswith(MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message")
    try:
        api_version, name, raw = _open_envelope(data[4:])
        module = _message_module(kind, api_version)
        obj = _Decoder().message(raw, module, name or kind.kind, 0)
    except (_Malformed, UnicodeDecodeError, struct.error, OverflowError) as error:
        raise bad_request(f"the protobuf body cannot be decoded: {error}") from None
    return {"apiVersion": api_version, "kind": name, **obj}


def _message_module(kind: HasKind, api_version: str) -> str:
    group, _, version = api_version.rpartition("/")
    if kind.kind in _messages()["meta_v1"] and kind.kind == "DeleteOptions":
        return "meta_v1"
    return module_of(group, version) if version else module_of(kind.group, kind.version)


def _open_envelope(data: bytes) -> tuple[str, str, bytes]:
    """apiVersion, kind and the object's own bytes."""
    api_version = name = ""
    raw = b""
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            for inner, text in _fields(value):
                if inner == 1 and isinstance(text, bytes):
                    api_version = text.decode()
                elif inner == 2 and isinstance(text, bytes):
                    name = text.decode()
        elif number == 2 and isinstance(value, bytes):
            raw = value
    return api_version, name, raw


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and raw values."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise _Malformed(f"illegal wire type {wire}")
        if position + size > end:
            raise _Malformed("unexpected EOF")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data):
            raise _Malformed("unexpected EOF")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise _Malformed("integer overflow")


class _Decoder:
    """Decodes messages by the generated field numbers; unknown fields are skipped."""

    def message(self, data: bytes, module: str, name: str, depth: int) -> Object:
        if depth > MAX_DEPTH:
            raise _Malformed("exceeded max depth")
        known = _messages().get(module, {}).get(name)
        if known is None:
            raise _Malformed(f"no message {name} in {module}")
        result: Object = {}
        for number, raw in _fields(data):
            entry = known.get(str(number))
            if entry is None:
                continue
            field, code = entry
            if code.startswith("[]"):
                result.setdefault(field, []).append(self.value(raw, code[2:], module, depth))
            elif code.startswith("{}"):
                key, value = self.entry(raw, code[2:], module, depth)
                result.setdefault(field, {})[key] = value
            elif not field:
                result.update(self.value(raw, code, module, depth))
            else:
                result[field] = self.value(raw, code, module, depth)
        return result

    def entry(self, raw: int | bytes, code: str, module: str, depth: int) -> tuple[str, Any]:
        """One entry of a map."""
        key, value = "", None
        for number, each in _fields(_bytes(raw)):
            if number == 1:
                key = _bytes(each).decode()
            elif number == 2:
                value = self.value(each, code, module, depth)
        return key, self.value(b"", code, module, depth) if value is None else value

    def value(self, raw: int | bytes, code: str, module: str, depth: int) -> Any:
        if code == "s":
            return _bytes(raw).decode()
        if code == "v":
            number = _integer(raw)
            return number - (1 << 64) if number >= 1 << 63 else number
        if code == "b":
            return bool(_integer(raw))
        if "." in code:
            owner, _, name = code.partition(".")
            return self.message(_bytes(raw), owner or module, name, depth + 1)
        return self.special(_bytes(raw), code, module, depth)

    def special(self, raw: bytes, code: str, module: str, depth: int) -> Any:
        """Types with a JSON form of their own."""
        if code == "B":
            return base64.b64encode(raw).decode()
        if code == "d":
            return struct.unpack("<d", raw)[0]
        if code in ("t", "u"):
            return _time(raw, code == "u")
        if code == "j":
            return self.raw_json(raw)
        if code == "q":
            return next((_bytes(each).decode() for number, each in _fields(raw) if number == 1), "")
        if code == "l":
            return [_bytes(each).decode() for number, each in _fields(raw) if number == 1]
        parts = dict(_fields(raw))
        if code == "i":
            if parts.get(1):
                return _bytes(parts.get(3, b"")).decode()
            return self.value(parts.get(2, 0), "v", module, depth)
        if code == "D":
            return f"{_integer(parts.get(1, 0)) / 1e9:g}s"
        return self.schema(raw, code, module, depth)

    @staticmethod
    def raw_json(raw: bytes) -> Any:
        """A message whose first field holds JSON text."""
        for number, each in _fields(raw):
            if number == 1:
                try:
                    return msgspec.json.decode(_bytes(each))
                except msgspec.DecodeError as error:
                    raise _Malformed(str(error)) from None
        return None

    def schema(self, raw: bytes, code: str, module: str, depth: int) -> Any:
        """JSONSchemaProps, or a list of them, a boolean, a list of strings."""
        single: Any = None
        several: list[Any] = []
        is_allowed = False
        for number, each in _fields(raw):
            is_schema = number == (2 if code == "sb" else 1)
            if is_schema:
                single = self.message(_bytes(each), module, "JSONSchemaProps", depth + 1)
            elif code == "sb":
                is_allowed = bool(_integer(each))
            elif code == "sa":
                several.append(self.message(_bytes(each), module, "JSONSchemaProps", depth + 1))
            else:
                several.append(_bytes(each).decode())
        if single is not None:
            return single
        return is_allowed if code == "sb" else several


def _bytes(raw: int | bytes) -> bytes:
    if isinstance(raw, int):
        raise _Malformed("wrong wire type")
    return raw


def _integer(raw: int | bytes) -> int:
    if isinstance(raw, bytes):
        raise _Malformed("wrong wire type")
    return raw


def _time(raw: bytes, is_micro: bool) -> str | None:
    """RFC 3339 of seconds and nanoseconds; zero is no time at all."""
    parts = dict(_fields(raw))
    seconds, nanos = _integer(parts.get(1, 0)), _integer(parts.get(2, 0))
    seconds = seconds - (1 << 64) if seconds >= 1 << 63 else seconds
    if not seconds and not nanos:
        return None
    try:
        moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1000)
    except (ValueError, OSError) as error:
        raise _Malformed(str(error)) from None
    return format_micro_time(moment) if is_micro else format_time(moment)

"""What all typed API objects share: the base class, decoding that forgives Go's nulls, copying.

Components hold objects as `msgspec.Struct`s (generated into `navarch.api.types`); the server holds
plain dicts. Go's encoder writes `null` for empty lists, maps and times that have no `omitempty`;
such nulls mean "empty", so `decode` drops them when a straight decode fails.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

Object = dict[str, Any]


class ApiStruct(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """Base of the generated types. API objects are trees, so the cycle collector skips them."""


T = TypeVar("T", bound=ApiStruct)

encode = msgspec.json.Encoder().encode
"""Any API object, typed or plain, as JSON bytes."""


_decoders: dict[type[ApiStruct], msgspec.json.Decoder[Any]] = {}


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """The kind's decoder, built at first use."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decoder


def decode(kind: type[T], data: bytes | bytearray | memoryview) -> T:
    """The typed object in JSON `data`; raises `msgspec.ValidationError` for wrong types."""
    decoder = _decoder(kind)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        return from_object(kind, msgspec.json.decode(data))


def from_object(kind: type[T], obj: Object) -> T:
    """The typed form of a plain object."""
    return msgspec.convert(without_nulls(obj), type=kind)


def to_object(obj: ApiStruct) -> Object:
    """The plain form of a typed object."""
    result: Object = msgspec.to_builtins(obj)
    return result


def copy_object(obj: T) -> T:
    """A deep copy, to be changed freely; objects in caches are shared and must not be."""
    return _decoder(type(obj)).decode(encode(obj))


def without_nulls(value: Any) -> Any:
    """The value without any null members of maps, as Go's decoder treats them."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value

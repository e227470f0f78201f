"""JSON request bodies as plain data: fast when all is well, forgiving and exact when it is not.

`msgspec` decodes the usual body. It silently keeps the last of duplicate keys and refuses broken
UTF-8; Go reports the former and repairs the latter, so those bodies take the slow way through the
standard library.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

TOO_DEEP = "exceeded max depth"


class JsonError(ValueError):
    """The text is no JSON; the message reads like Go's."""


class Repeated(dict[str, Any]):
    """An object some of whose keys came more than once; the last values stand."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(data: bytes) -> Any:
    """The value; of duplicate keys the last stands. Raises `JsonError`."""
    try:
        return _decode(data)
    except RecursionError:
        raise JsonError(TOO_DEEP) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return without_repeats(parse_json_with_repeats(data))


def parse_json_with_repeats(data: bytes) -> Any:
    """The value, objects with duplicate keys as `Repeated`; raises `JsonError`."""
    try:
        text = data.decode(errors="replace")
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
        return repaired(value) if "\\ud" in text.lower() else value
    except RecursionError:
        raise JsonError(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise JsonError(_complaint(error)) from None
    except JsonError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise JsonError(str(error)) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    return result if len(result) == len(pairs) else Repeated(pairs)


def _constant(name: str) -> Any:
    raise JsonError(_invalid(name[0], "looking for beginning of value"))


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise JsonError(f"json: cannot unmarshal number {text} into Go value of type float64")
    return value


def repaired(value: Any) -> Any:
    """Halves of surrogate pairs become the replacement character, as in Go."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Repeated):
        return Repeated([(repaired(key), repaired(item)) for key, item in value.pairs])
    if isinstance(value, dict):
        return {repaired(key): repaired(item) for key, item in value.items()}
    if isinstance(value, list):
        return [repaired(item) for item in value]
    return value


def without_repeats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_repeats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_repeats(item) for item in value]
    return value


def _invalid(character: str, where: str) -> str:
    if not character:
        return "unexpected end of JSON input"
    shown = "\\'" if character == "'" else json.dumps(character, ensure_ascii=False)[1:-1]
    return f"invalid character '{shown}' {where}"


_PLACES = {
    "Extra data": "after top-level value",
    "Expecting property name enclosed in double quotes": (
        "looking for beginning of object key string"
    ),
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after element",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
}


def _complaint(error: json.JSONDecodeError) -> str:
    """Go's words for a syntax error."""
    rest = error.doc[error.pos :]
    if error.msg.startswith("Illegal trailing comma"):
        rest = rest[1:]  # since Python 3.13 the place told is the comma's, not what follows it
    if error.msg.startswith("Unterminated string") or not rest.strip():
        return "unexpected end of JSON input"
    character = rest.lstrip()[0]
    places = (place for start, place in _PLACES.items() if error.msg.startswith(start))
    return _invalid(character, next(places, "looking for beginning of value"))


def may_have_repeats(value: Any, data: bytes) -> bool:
    """Whether the text of a decoded value may have held repeated keys.

    A compact text without any is as long as the value written again. Where that says nothing, keys
    are counted: in the text each one ends in `":`, and inside strings only `\\":` looks alike.
    """
    if len(_encode(value)) == len(data):
        return False
    if b'\\\\":' in data or any(odd in data for odd in (b" :", b"\t:", b"\n:", b"\r:")):
        return True
    return _count_keys(value) != data.count(b'":') - data.count(b'\\":')


def _count_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_count_keys, value.values()))
    return sum(map(_count_keys, value)) if isinstance(value, list) else 0

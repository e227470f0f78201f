"""Reading a request body and decoding it to plain data.

Decoding is fast for what programs send and careful for what people and attackers send: sizes, depth
and YAML aliases are bounded, broken UTF-8 is replaced as Go does, and duplicate keys are found.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp.web import BaseRequest

from navarch.api.errors import ApiError, bad_request, too_large

BODY_LIMIT = 3 * 1024 * 1024
BODY_STALL_SECONDS = 30.0
MAX_DEPTH = 256
"""Deeper than any object, and shallow enough that every later walk may recurse."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

JSON_TYPES = frozenset({"", "application/json"})
YAML_TYPES = frozenset({"application/yaml", "text/yaml", "application/x-yaml"})


@dataclass(frozen=True, slots=True)
class Document:
    """A decoded body. `duplicates` are the complaints about keys that stand twice, in the wording
    of upstream's strict decoder; `is_yaml` tells how to wrap them."""

    value: Any
    duplicates: tuple[str, ...] = ()
    is_yaml: bool = False


def content_type(request: BaseRequest) -> str:
    """The media type of the body without parameters."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


async def read_body(request: BaseRequest, limit: int = BODY_LIMIT) -> bytes:
    """The whole body. Raises 413 above the limit and 408 when the client stops sending."""
    content = request.content
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    if content.is_eof():
        body = content.read_nowait() if length else content.read_nowait(-1)
    else:
        body = await _read_slowly(request, limit)
    if len(body) > limit:
        raise too_large(limit)
    return body


async def _read_slowly(request: BaseRequest, limit: int) -> bytes:
    chunks = []
    size = 0
    try:
        while True:
            async with asyncio.timeout(BODY_STALL_SECONDS):
                chunk = await request.content.readany()
            if not chunk:
                break
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
    except TimeoutError:
        raise ApiError(408, "Timeout", "the request body did not arrive in time") from None
    return b"".join(chunks)


def unsupported_media_type(accepted: str) -> ApiError:
    return ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        + accepted,
    )


def decode_body(body: bytes, media_type: str, strict: bool) -> Document:
    """A body sent as JSON or YAML. `strict` looks for duplicates at any price. Raises 400, 415."""
    if media_type in JSON_TYPES:
        if not media_type and body.lstrip()[:1] not in (b"{", b"["):
            return decode_yaml(body)
        return decode_json(body, strict)
    if media_type in YAML_TYPES:
        return decode_yaml(body)
    raise unsupported_media_type("application/json, application/yaml")


def decode_json(body: bytes, strict: bool = False) -> Document:
    """JSON. Programs send compact JSON: when encoding the result again gives the same length, no
    key was there twice, and the slow decoder that would tell which is not needed."""
    try:
        value = _decode(body)
    except RecursionError:
        raise bad_request("json: exceeded max depth") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Document(_decode_leniently(body, error))
    check_depth(body, value)
    if not strict and len(body) == len(_encode(value)):
        return Document(value)
    return Document(value, _find_duplicates(body))


def check_depth(body: bytes, value: Any) -> None:
    """Refuse nesting beyond what later recursive walks can bear."""
    if body.count(b"{") + body.count(b"[") < MAX_DEPTH:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise bad_request("json: exceeded max depth")


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _syntax_error(body: bytes, error: Exception) -> ApiError:
    if not body.strip():
        return bad_request("unexpected end of JSON input")
    return bad_request(f"couldn't get version/kind; json parse error: {error}")


def _decode_leniently(body: bytes, first: Exception) -> Any:
    """Invalid UTF-8 and lone surrogates become U+FFFD, as with Go's decoder."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text, object_pairs_hook=dict, parse_constant=_refuse_constant)
    except RecursionError:
        raise bad_request("json: exceeded max depth") from None
    except ValueError:
        raise _syntax_error(body, first) from None
    check_depth(body, value)
    return _without_surrogates(value)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(each) for each in value]
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"invalid character in {name}")


class _Pairs(dict[str, Any]):
    """An object that remembers which of its keys came twice."""

    duplicates: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    result = _Pairs(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        doubled = []
        for key, _ in pairs:
            if key in seen and key not in doubled:
                doubled.append(key)
            seen.add(key)
        result.duplicates = tuple(doubled)
    return result


def _find_duplicates(body: bytes) -> tuple[str, ...]:
    found: list[str] = []
    _collect_duplicates(json.loads(body, object_pairs_hook=_pairs), "", found)
    return tuple(f'duplicate field "{path}"' for path in found)


def _collect_duplicates(node: Any, path: str, found: list[str]) -> None:
    if isinstance(node, _Pairs):
        prefix = path + "." if path else ""
        found.extend(prefix + key for key in node.duplicates)
        for key, child in node.items():
            _collect_duplicates(child, prefix + key, found)
    elif isinstance(node, list):
        for index, child in enumerate(node):
            _collect_duplicates(child, f"{path}[{index}]", found)


def decode_yaml(body: bytes) -> Document:
    from navarch.apiserver.http.yaml_body import load_yaml

    value, duplicates = load_yaml(body)
    return Document(value, duplicates, is_yaml=True)

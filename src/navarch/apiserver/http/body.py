"""Reading a request body, within bounds of size and time."""

from __future__ import annotations

import asyncio

from aiohttp import StreamReader
from aiohttp.web import BaseRequest

from navarch.api.errors import ApiError, too_large

BODY_LIMIT = 3 * 1024 * 1024
BODY_STALL_SECONDS = 30.0
PIECE = 64 * 1024

JSON = "application/json"
PROTOBUF = "application/vnd.kubernetes.protobuf"
OBJECT_TYPES = (JSON, "application/yaml", PROTOBUF)


def content_type(request: BaseRequest) -> str:
    """The media type of the body without parameters."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def object_type(request: BaseRequest, accepted: tuple[str, ...] = OBJECT_TYPES) -> str:
    """The media type of a body that is an object; absent means JSON, or what looks like YAML.
    Raises 415."""
    media_type = content_type(request)
    if media_type and media_type not in accepted:
        raise unsupported_media_type(", ".join(accepted))
    return media_type


def unsupported_media_type(accepted: str) -> ApiError:
    return ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        + accepted,
    )


async def read_body(request: BaseRequest, limit: int = BODY_LIMIT) -> bytes:
    """The whole body. Raises 413 above the limit and 408 when the client stops sending."""
    content = request.content
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    if "Expect" in request.headers and not content.is_eof():
        # The client sends its body only when it hears that it is wanted.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    if not content.is_eof():
        body = await _read_slowly(request, limit)
    else:
        body = _taken(content) or content.read_nowait(-1)
    if len(body) > limit:
        raise too_large(limit)
    return body


def _taken(content: StreamReader) -> bytes:
    """A small body that came in one piece, as nearly all do. To read it the usual way has the
    connection's parser go on, which has nothing to do: only large bodies make it pause."""
    size = content.total_bytes
    if not 0 < size <= PIECE or content._size != size or len(content._buffer) > 1:
        return b""
    content._size = 0
    return content._buffer.popleft()


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


def effective_type(media_type: str, body: bytes) -> str:
    """What a body without a declared type is: JSON when it begins like it, else YAML."""
    if media_type:
        return media_type
    return JSON if not body.strip() or body.lstrip()[:1] in b'{["' else "application/yaml"

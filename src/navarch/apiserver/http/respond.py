"""From results to response bytes: objects, lists, statuses, plain text."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import HttpVersion11
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_writer import StreamWriter, _serialize_headers
from aiohttp.web import BaseRequest, Response
from multidict import CIMultiDict

from navarch.api.errors import ApiError
from navarch.api.schema.json_body import repaired
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.negotiation import JSON, YAML

Object = dict[str, Any]

GZIP_THRESHOLD = 128 * 1024
COPIED_BYTES = 64 * 1024
"""A smaller body is copied behind its head, so that both are one record of TLS."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def encode_json(value: object) -> bytes:
    """JSON. Bytes that are no text, as headers that name users may have, are shown as Go does."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(repaired(value))


class Answer(Response):
    """A whole body, written together with its head in one go, past the general machinery that
    nearly no answer needs. aiohttp's own way is taken where HTTP asks for more: other versions,
    HEAD, answers without a body, connections that end."""

    _is_plain = False

    def __init__(self, body: bytes, status: int, headers: CIMultiDict[str]) -> None:
        super(Response, self).__init__(status=status, _real_headers=headers)
        self._body = self._whole = body

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        self._is_plain = (
            request.version == HttpVersion11
            and request.keep_alive
            and self._keep_alive is None
            and self.status >= 200
            and self.status not in (204, 304)
            and request.method != "HEAD"
            and not self.prepared
        )
        if not self._is_plain:
            return await super().prepare(request)
        self._keep_alive = True
        self._req, self._payload_writer = request, request.writer
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        if not self._is_plain or self._eof_sent:
            return await super().write_eof(data)
        writer, headers, body = self._payload_writer, self._headers, self._whole
        assert isinstance(writer, StreamWriter)
        headers["Content-Length"] = str(len(body))
        headers["Date"] = rfc822_formatted_time()
        head = _serialize_headers(f"HTTP/1.1 {self._status} {self._reason}", headers)
        transport = writer.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        if len(body) < COPIED_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        writer.output_size += len(head) + len(body)
        self._eof_sent = True
        self._payload_writer = self._req = None
        await writer.drain()


def base_headers(call: Call) -> CIMultiDict[str]:
    """The headers that every answer carries."""
    headers = CIMultiDict((("Audit-Id", call.audit_id), ("Cache-Control", "no-cache, private")))
    schema, level = call.flow_marks
    if schema:
        headers["X-Kubernetes-Pf-Flowschema-Uid"] = schema
        headers["X-Kubernetes-Pf-Prioritylevel-Uid"] = level
    for warning in call.warnings.headers():
        headers.add("Warning", warning)
    if call.cors:
        headers.update(call.cors)
    return headers


def respond_bytes(call: Call, body: bytes, status: int = 200) -> Response:
    """Encoded JSON in the representation that was negotiated (JSON or YAML)."""
    headers = base_headers(call)
    if call.trail is not None:
        call.trail.response_object(body)
    if call.representation.media_type == YAML:
        headers["Content-Type"] = YAML
        return Answer(to_yaml(_decode(body)), status, headers)
    headers["Content-Type"] = JSON
    if call.wants_indent:
        body = msgspec.json.format(body, indent=2) + b"\n"
    if len(body) >= GZIP_THRESHOLD and accepts_gzip(call):
        body = gzip_body(body)
        headers["Content-Encoding"] = "gzip"
        headers["Vary"] = "Accept-Encoding"
    return Answer(body, status, headers)


def respond_object(call: Call, obj: Object, status: int = 200) -> Response:
    """A decoded object or list."""
    if call.trail is not None and obj.get("kind") == "Status":
        call.trail.response_status(obj)
    return respond_bytes(call, encode_json(obj), status)


def respond_text(call: Call, text: str, status: int = 200) -> Response:
    headers = base_headers(call)
    headers["Content-Type"] = "text/plain; charset=utf-8"
    headers["X-Content-Type-Options"] = "nosniff"
    return Answer(text.encode(), status, headers)


def respond_not_found(call: Call) -> Response:
    """What a path that nobody serves answers: text, not a Status."""
    return respond_text(call, "404 page not found\n", 404)


def respond_error(call: Call, error: ApiError) -> Response:
    """A failure as a Status; always JSON unless YAML was asked for and can be given."""
    headers = base_headers(call)
    body = encode_json(error.to_status())
    if call.trail is not None:
        call.trail.response_status(error.to_status())
    if call.representation.media_type == YAML:
        headers["Content-Type"] = YAML
        body = to_yaml(error.to_status())
    else:
        headers["Content-Type"] = JSON
        if call.wants_indent:
            body = msgspec.json.format(body, indent=2) + b"\n"
    retry = (error.details or {}).get("retryAfterSeconds")
    if retry:
        headers["Retry-After"] = str(retry)
    headers.update(error.headers)
    if error.status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return Answer(body, error.status, headers)


def success_status(details: Mapping[str, Any] | None = None, code: int = 0) -> Object:
    """A `Status` that tells of success."""
    status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details is not None:
        status["details"] = dict(details)
    if code:
        status["code"] = code
    return status


def accepts_gzip(call: Call) -> bool:
    return "gzip" in call.request.headers.get("Accept-Encoding", "")


def gzip_body(body: bytes | Sequence[bytes]) -> bytes:
    """Level 1: on a local network the CPU is dearer than the bytes."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = [body] if isinstance(body, bytes) else body
    return b"".join([*(compressor.compress(part) for part in parts), compressor.flush()])


def to_yaml(value: object) -> bytes:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(value, Dumper=dumper, default_flow_style=False, allow_unicode=True)
    return text.encode()

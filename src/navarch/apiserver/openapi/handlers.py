"""The OpenAPI paths: which document, in which form, and whether the client has it already."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from aiohttp import web

from navarch.api.errors import method_not_allowed
from navarch.apiserver.core import Core
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.negotiation import JSON, not_acceptable, parse_accept
from navarch.apiserver.http.respond import (
    accepts_gzip,
    base_headers,
    respond_not_found,
    respond_object,
)
from navarch.apiserver.openapi.documents import Document, OpenApi

PROTOBUF_ASKED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""What is asked for has a character that a media type may not have; the answer's has not."""

KEPT = timedelta(days=365)


def add_openapi(app: App, documents: OpenApi) -> None:
    """Put the OpenAPI paths into the app's tables."""

    async def v2(core: Core, call: Call) -> web.StreamResponse:
        is_protobuf = _wants_protobuf(call, known=True)
        document = await documents.v2(is_protobuf)
        return _respond(call, document, PROTOBUF if is_protobuf else JSON)

    async def index(core: Core, call: Call) -> web.StreamResponse:
        _wants_protobuf(call, known=False)
        return respond_object(call, documents.index())

    async def v3(core: Core, call: Call) -> web.StreamResponse:
        _wants_protobuf(call, known=False)
        path = call.info.path.removeprefix("/openapi/v3/")
        current = documents.v3_hash(path)
        if current is None:
            return respond_not_found(call)
        asked = call.parameter("hash")
        if asked and asked != current:
            target = f"/openapi/v3/{path}?hash={current}"
            return web.Response(status=301, headers={**base_headers(call), "Location": target})
        document = await documents.v3(path)
        if document is None:
            return respond_not_found(call)
        return _respond(call, document, JSON, is_final=bool(asked))

    app.paths["/openapi/v2"] = v2
    app.paths["/openapi/v3"] = app.paths["/openapi/v3/"] = index
    app.prefixes["/openapi/v3/"] = v3


def _wants_protobuf(call: Call, known: bool) -> bool:
    """Whether protobuf is wanted most. Raises 405, and 406 when nothing that is known is wanted."""
    if call.request.method not in ("GET", "HEAD"):
        raise method_not_allowed()
    accept = ",".join(call.request.headers.getall("Accept", []))
    if not accept:
        return False
    for clause in parse_accept(accept):
        if clause.media_type in (JSON, "*/*", "application/*"):
            return False
        if known and clause.media_type in (PROTOBUF_ASKED, PROTOBUF):
            return True
    raise not_acceptable(JSON)


def _respond(
    call: Call, document: Document, media_type: str, is_final: bool = False
) -> web.StreamResponse:
    """A document, or 304. `is_final`: the URL names this very content, which never changes."""
    headers = base_headers(call)
    headers["ETag"] = tag = f'"{document.hash}"'
    headers["Vary"] = "Accept, Accept-Encoding"
    if is_final:
        headers["Cache-Control"] = "public, immutable"
        headers["Expires"] = format_datetime(datetime.now(UTC) + KEPT, usegmt=True)
    if call.request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = media_type
    if accepts_gzip(call):
        headers["Content-Encoding"] = "gzip"
        return web.Response(body=document.compressed, headers=headers)
    return web.Response(body=zlib.decompress(document.compressed, 31), headers=headers)

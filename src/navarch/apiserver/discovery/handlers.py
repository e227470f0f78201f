"""The discovery paths, and which form of the documents a client gets."""

from __future__ import annotations

from aiohttp import web

from navarch.apiserver.core import Core
from navarch.apiserver.discovery.documents import Documents
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.negotiation import (
    JSON,
    PLAIN,
    YAML,
    Representation,
    not_acceptable,
    parse_accept,
)
from navarch.apiserver.http.respond import base_headers, respond_not_found, respond_object

GROUP = "apidiscovery.k8s.io"
LIST_KIND = "APIGroupDiscoveryList"


def add_discovery(app: App, documents: Documents) -> None:
    """Put the discovery paths into the app's tables."""

    async def roots(core: Core, call: Call) -> web.StreamResponse:
        return _root(core, call, documents)

    async def below(core: Core, call: Call) -> web.StreamResponse:
        return _below(call, documents)

    for path in ("/api", "/apis", "/api/", "/apis/"):
        app.paths[path] = roots
    app.prefixes["/api/"] = app.prefixes["/apis/"] = below


def aggregated_version(accept: str) -> tuple[str, Representation]:
    """The version of the aggregated form that is wanted most, "" for the legacy form, and how that
    is to be written. Raises 406."""
    if not accept:
        return "", PLAIN
    for clause in parse_accept(accept):
        if clause.media_type in (JSON, "*/*", "application/*"):
            if not clause.get("as"):
                return "", PLAIN
            is_known = clause.get("g") == GROUP and clause.get("as") == LIST_KIND
            if is_known and clause.get("v") in ("v2", "v2beta1"):
                return clause.get("v"), PLAIN
        elif clause.media_type == YAML and not clause.get("as"):
            return "", Representation(YAML)
    raise not_acceptable()


def _root(core: Core, call: Call, documents: Documents) -> web.StreamResponse:
    is_core = call.info.path.strip("/") == "api"
    accept = ",".join(call.request.headers.getall("Accept", []))
    version, call.representation = aggregated_version(accept)
    if not version:
        if not is_core:
            return respond_object(call, documents.group_list())
        address = f"{core.options.advertised}:{core.port}"
        mapping = {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
        return respond_object(
            call,
            {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [mapping]},
        )
    document = documents.aggregated(is_core, version)
    headers = base_headers(call)
    headers["Cache-Control"] = "public"
    headers["ETag"] = document.etag
    headers["Vary"] = "Accept"
    if call.request.headers.get("If-None-Match") == document.etag:
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = f"{JSON};g={GROUP};v={version};as={LIST_KIND}"
    return web.Response(body=document.body, headers=headers)


def _below(call: Call, documents: Documents) -> web.StreamResponse:
    """`/api/v1`, `/apis/<group>` and `/apis/<group>/<version>`."""
    accept = ",".join(call.request.headers.getall("Accept", []))
    _, call.representation = aggregated_version(accept)
    parts = call.info.path.strip("/").split("/")
    document = None
    if parts[0] == "api" and len(parts) == 2:
        document = documents.resource_list("", parts[1])
    elif parts[0] == "apis" and len(parts) == 2:
        document = documents.group(parts[1])
    elif parts[0] == "apis" and len(parts) == 3:
        document = documents.resource_list(parts[1], parts[2])
    if document is None:
        return respond_not_found(call)
    return respond_object(call, document)

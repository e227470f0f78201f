"""Subresources that are views of the object itself: status, ephemeralcontainers, resize, approval,
and a namespace's finalize. What each may change is the strategy's business."""

from __future__ import annotations

from aiohttp.web import StreamResponse

from navarch.apiserver.core import Core
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.verbs import patch, read, write


def add_plain(app: App) -> None:
    """Put the handlers into the app's table."""
    for owner, name in (
        ("*", "status"),
        ("pods", "ephemeralcontainers"),
        ("pods", "resize"),
        ("certificatesigningrequests.certificates.k8s.io", "approval"),
    ):
        app.subresources[owner, name, "get"] = read.get
        app.subresources[owner, name, "update"] = _update
        app.subresources[owner, name, "patch"] = _patch
    app.subresources["namespaces", "finalize", "update"] = _update


async def _update(core: Core, call: Call, resource: Resource) -> StreamResponse:
    return await write.update(core, call, resource, call.info.subresource)


async def _patch(core: Core, call: Call, resource: Resource) -> StreamResponse:
    return await patch.patch(core, call, resource, call.info.subresource)

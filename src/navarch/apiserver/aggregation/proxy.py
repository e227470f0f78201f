"""Requests for group versions of extension API servers, passed on as they are.

By the time a request comes here it is authenticated, impersonation is resolved and the user is
allowed to make it; the extension server learns the user from the `X-Remote-*` headers and decides
once more by its own lights. Answers, streams and upgrades go back untouched, except that a redirect
would make clients show their credentials elsewhere and is refused.
"""

from __future__ import annotations

import logging
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDict

from navarch.api.errors import ApiError
from navarch.apiserver.aggregation.extension import Extensions, set_user
from navarch.apiserver.aggregation.records import Record
from navarch.apiserver.connect.forward import Rewrite, is_upgrade, upgrade
from navarch.apiserver.core import Core
from navarch.apiserver.http.app import App, PathHandler
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.respond import respond_not_found, respond_text

log = logging.getLogger(__name__)


class AsIs(Rewrite):
    """Nothing is changed, and no redirect gets through."""

    refuses_redirects = True


def is_ambiguous(raw_path: str) -> bool:
    """Whether the other server might read another resource out of this path than was authorized
    here: an encoded slash, an empty segment, or one that climbs."""
    path = raw_path.partition("?")[0]
    segments = [unquote(each) for each in path.strip("/").split("/")]
    return any(each in ("", ".", "..") or "/" in each for each in segments)


class Proxy:
    """Routes the group versions that are not ours."""

    def __init__(self, app: App, extensions: Extensions) -> None:
        self._app = app
        self._extensions = extensions

    def changed(self, old: Record | None, new: Record | None) -> None:
        """An APIService changed: route accordingly."""
        if old is not None and old.service is not None:
            self._app.remote.pop((old.group, old.version), None)
        if new is not None and new.service is not None:
            self._app.remote[new.group, new.version] = self._handler(new)

    def _handler(self, record: Record) -> PathHandler:
        async def handle(core: Core, call: Call) -> web.StreamResponse:
            if is_ambiguous(call.request.raw_path):
                return respond_not_found(call)
            if not record.is_available:
                return respond_text(call, "service unavailable\n", 503)
            try:
                backend = self._extensions.backend(record)
            except ApiError as error:
                log.info("APIService %s: %s", record.name, error)
                text = "service unavailable" if error.status == 503 else error.message
                return respond_text(call, f"{text}\n", error.status)

            def extra(headers: CIMultiDict[str]) -> None:
                set_user(headers, call.user)
                headers["X-Forwarded-Uri"] = call.info.path
                headers["X-Forwarded-Host"] = call.request.headers.get("Host", "")
                headers["X-Forwarded-Proto"] = "https" if call.request.secure else "http"

            target = call.request.raw_path
            try:
                if is_upgrade(call.request):
                    return await upgrade(call, backend, target, extra)
                forwarder = self._extensions.forwarder
                return await forwarder.forward(call, backend, target, extra, AsIs())
            except ApiError as error:
                if error.status != 503:
                    raise
                return respond_text(call, f"{error.message}\n", 503)

        return handle

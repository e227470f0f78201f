"""The front door: every request, from its first line to its response.

parse → authenticate → authorize → dispatch; whatever goes wrong on the way becomes a Status here
and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import HttpVersion10, web
from multidict import CIMultiDict

from navarch.api.errors import (
    ApiError,
    bad_request,
    internal_error,
    method_not_allowed,
    not_found,
    unauthorized,
)
from navarch.api.names import as_uuid
from navarch.apiserver.authentication.front_proxy import RequestHeaders
from navarch.apiserver.authentication.impersonation import impersonate
from navarch.apiserver.authorization import forbidden_error
from navarch.apiserver.contracts import ANONYMOUS, Attributes, Decision, RequestInfo
from navarch.apiserver.core import Core
from navarch.apiserver.flowcontrol.work import seats_of
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.cors import Origins, preflight
from navarch.apiserver.http.metrics import READING, RequestMetrics, is_long_running
from navarch.apiserver.http.negotiation import negotiate
from navarch.apiserver.http.options import parse_duration
from navarch.apiserver.http.request_info import parse_target
from navarch.apiserver.http.respond import (
    base_headers,
    respond_error,
    respond_not_found,
    respond_text,
)
from navarch.apiserver.registry.resource import Resource

log = logging.getLogger(__name__)

PathHandler = Callable[[Core, Call], Awaitable[web.StreamResponse]]
ResourceHandler = Callable[[Core, Call, Resource], Awaitable[web.StreamResponse]]
VirtualHandler = Callable[[Core, Call], Awaitable[web.StreamResponse]]

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_RESOURCE_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})


_audit_bits = random.Random(uuid.uuid4().int).getrandbits


def new_audit_id() -> str:
    """A random UUID; it names a request in logs and protects nothing."""
    return as_uuid(_audit_bits(128))


class App:
    """Takes a request to its handler. Handlers are found in tables, filled at start:

    `paths`: non-resource paths, exact; `prefixes`: the same for everything below a path;
    `verbs`: by verb, for every stored resource; `subresources`: by (resource name or "*",
    subresource, verb); `virtual`: kinds that are never stored, by (group, resource); `remote`:
    whole group versions that other servers serve, by (group, version)."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.paths: dict[str, PathHandler] = {}
        self.prefixes: dict[str, PathHandler] = {}
        self.verbs: dict[str, ResourceHandler] = {}
        self.subresources: dict[tuple[str, str, str], ResourceHandler] = {}
        self.virtual: dict[tuple[str, str], VirtualHandler] = {}
        self.remote: dict[tuple[str, str], PathHandler] = {}
        self.metrics = RequestMetrics()
        self.metric_sources: list[Callable[[], Iterable[str]]] = []
        """What else has lines for `/metrics`."""
        self._running: dict[Call, tuple[asyncio.Task[Any], float]] = {}
        """All calls under way, oldest first, and when they began."""
        proxies = RequestHeaders.of(core.options)
        self._proxy_headers = proxies if proxies != RequestHeaders() else None
        """Headers that name users besides the usual ones, which are never passed on anyway."""
        origins = core.options.cors_allowed_origins
        self._origins = Origins(origins) if origins else None
        self.is_draining = False
        """The server is about to stop: every connection ends with the answer it waits for."""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        audit_id = request.headers.get("Audit-Id") or new_audit_id()
        raw_path = request.raw_path
        if not raw_path.startswith("/"):
            raw_path = path_of(raw_path)
        call = Call(request, parse_target(request.method, raw_path), audit_id)
        started = time.perf_counter()
        self.metrics.begin(call.info)
        task = request.task
        self._running[call] = task, started
        status = 500
        try:
            response = await self._serve(call)
            status = response.status
            if self.is_draining:
                response.force_close()
            return response
        except ApiError as error:
            status = error.status
            return self._refuse(call, error)
        except RecursionError:
            status = 400
            return self._refuse(call, ApiError(400, "BadRequest", "the object is nested too deep"))
        except asyncio.CancelledError:
            status = 499
            if not call.is_expired:
                raise
            task.uncancel()
            status = 504
            return self._refuse(call, timed_out())
        except ConnectionError:
            status = 499
            raise
        except Exception as error:
            log.exception("%s %s failed", request.method, request.raw_path.partition("?")[0])
            if call.trail is not None:
                call.trail.panicked(f"{type(error).__name__}: {error}")
                call.trail = None
            return self._refuse(call, internal_error(f"{type(error).__name__}: {error}"))
        finally:
            del self._running[call]
            if call.seats and self.core.flow_control is not None:
                self.core.flow_control.leave(call)
            if call.trail is not None:
                call.trail.complete(status if status != 499 else None)
            info = call.info
            self.metrics.end(info)
            resource = self.core.catalog.find(info.group, info.version, info.resource)
            kind = resource.kind if resource is not None and info.is_resource else None
            self.metrics.observe(info, kind, status, time.perf_counter() - started)

    def _refuse(self, call: Call, error: ApiError) -> web.StreamResponse:
        """The error's Status, unless a response is under way: then the connection can only end."""
        if (
            call.request.writer.output_size > 0
            or self.core.connection_of(call.request).is_taken_over
        ):
            raise ConnectionResetError("the response broke off") from error
        response = respond_error(call, error)
        if error.status in (408, 413):
            response.force_close()
        return response

    async def _serve(self, call: Call) -> web.StreamResponse:
        request = call.request
        if self._origins is not None:
            call.cors = self._origins.headers(request)
            if call.cors and request.method == "OPTIONS":
                return preflight(base_headers(call))
        if "%" in request.raw_path and _BAD_ESCAPE.search(request.raw_path.partition("?")[0]):
            raise bad_request("invalid URL escape")
        if request.version < HttpVersion10:
            raise bad_request("HTTP before 1.0 is not spoken")
        if request.headers.get("Expect", "100-continue").lower() != "100-continue":
            raise ApiError(417, "", "the server meets no expectation but 100-continue")
        peer = self.core.connection_of(request).peer
        security = self.core.secured
        auditor = self.core.auditor
        try:
            user = await security.authenticator.authenticate(request.headers, peer)
            if user is None:
                admits = security.admits_anonymous
                if not (
                    self.core.options.anonymous_auth if admits is None else admits(call.info.path)
                ):
                    raise unauthorized()
                user = ANONYMOUS
        except ApiError:
            if auditor is not None:
                auditor.refused(call, peer is not None)
            raise
        call.user = user
        if self._proxy_headers is not None:
            # Servers behind us believe these headers when they come from us.
            is_one = self._proxy_headers.is_one
            kept = CIMultiDict(pair for pair in request.headers.items() if not is_one(pair[0]))
            call.request = request.clone(headers=kept)
        if auditor is not None:
            await auditor.begin(call)
        await self._authorize(call)
        if is_long_running(info := call.info) and info.verb != "watch":
            return await self._dispatch(call)
        control = self.core.flow_control
        if control is None:
            if self._is_too_much(call):
                return respond_too_many(call)
        else:
            flow = control.classify(call.user, info)
            if flow is not None:
                call.flow_marks = flow.marks
                seats = 1
                if info.verb != "get" and info.is_resource:
                    resource = self.core.catalog.find(info.group, info.version, info.resource)
                    seats = seats_of(call, resource)
                if not control.enter(call, flow, seats) and not await control.wait(
                    call, flow, seats
                ):
                    return respond_too_many(call)
        timeout = call.parameter("timeout")
        if not timeout or info.verb == "watch":
            return await self._dispatch(call)
        return await self._dispatch_in_time(call, timeout)

    def _is_too_much(self, call: Call) -> bool:
        """Without priority and fairness, requests under way are simply counted; administrators are
        always let in."""
        options = self.core.options
        is_read = call.info.verb in READING
        limit = options.max_requests_inflight if is_read else options.max_mutating_requests_inflight
        if self.metrics.count_of(call.info) <= limit or not limit:
            return False
        return "system:masters" not in call.user.groups

    async def _dispatch_in_time(self, call: Call, timeout: str) -> web.StreamResponse:
        seconds = parse_duration(timeout)
        if seconds <= 0 or seconds >= self.core.options.request_timeout_seconds:
            return await self._dispatch(call)
        try:
            async with asyncio.timeout(seconds):
                # A timeout below what any request needs has passed before the work begins.
                await asyncio.sleep(0 if seconds > 0.001 else 0.002)
                return await self._dispatch(call)
        except TimeoutError:
            raise timed_out() from None

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way that will end by itself."""
        return any(not is_long_running(call.info) for call in self._running)

    def expire(self) -> None:
        """End the requests that take longer than any may. Called every second or so: to set and
        clear a timer for each would cost all of them more than it is worth for so few."""
        oldest = time.perf_counter() - self.core.options.request_timeout_seconds
        for call, (task, started) in list(self._running.items()):
            if started > oldest:
                break
            if not call.is_expired and not is_long_running(call.info):
                call.is_expired = True
                task.cancel()

    async def _authorize(self, call: Call) -> None:
        """Impersonation, then the decision on the request as the user it ends up with."""
        authorizer = self.core.secured.authorizer
        attributes = self._attributes(call)
        headers = call.request.headers
        if any(name[0] in "iI" and name[:12].lower() == "impersonate-" for name in headers):
            wanted = impersonate(headers.items(), attributes, authorizer)
            if wanted is not None:
                call.user = wanted
                attributes = self._attributes(call)
                if call.trail is not None:
                    call.trail.impersonated(wanted)
        authorization = self.core.secured.authorization
        if authorization is not None and authorization.has_remotes:
            await authorization.prepare(attributes)
        decision, reason = authorizer.authorize(attributes)
        is_allowed = decision is Decision.ALLOW
        if call.trail is not None:
            word = "allow" if is_allowed else "forbid"
            call.trail.annotate("authorization.k8s.io/decision", word)
            call.trail.annotate("authorization.k8s.io/reason", reason)
        if not is_allowed:
            raise forbidden_error(attributes, reason)

    @staticmethod
    def _attributes(call: Call) -> Attributes:
        if not call.target.query:
            return Attributes(call.user, call.info)
        fields, labels = call.parameter("fieldSelector"), call.parameter("labelSelector")
        return Attributes(call.user, call.info, field_selector=fields, label_selector=labels)

    # ---- dispatch

    async def _dispatch(self, call: Call) -> web.StreamResponse:
        info = call.info
        if self.remote:
            remote = self.remote.get(_group_version(info))
            if remote is not None:
                return await remote(self.core, call)
        if not info.is_resource:
            return await self._dispatch_path(call)
        if call.target.is_malformed:
            return respond_not_found(call)
        if info.subresource not in _STREAMED:
            call.representation = negotiate(call.request.headers.get("Accept"))
        resource = self.core.catalog.find(info.group, info.version, info.resource)
        if resource is None:
            virtual = self.virtual.get((info.group, info.resource))
            if virtual is not None:
                return await virtual(self.core, call)
            return self._unknown_resource(call)
        return await self._dispatch_resource(call, resource)

    async def _dispatch_resource(self, call: Call, resource: Resource) -> web.StreamResponse:
        info, kind = call.info, resource.kind
        if resource.deprecation:
            call.warnings.add(resource.deprecation)
        is_namespaces = info.resource == "namespaces" and not info.group
        if not kind.namespaced and info.namespace and not is_namespaces:
            return respond_not_found(call)
        if kind.namespaced and not info.namespace and call.target.is_item:
            return respond_not_found(call)
        if info.subresource:
            handler = self._subresource_handler(call, resource)
            if handler is None and resource.is_custom:
                raise not_found(kind.plural, kind.group, info.name)
            if handler is None:
                return respond_not_found(call)
            return await handler(self.core, call, resource)
        verb = info.verb
        if call.request.method not in _RESOURCE_METHODS or verb not in kind.verbs:
            raise method_not_allowed()
        if call.target.is_item != (verb in _ITEM_VERBS) and verb != "watch":
            raise method_not_allowed()
        if verb == "create" and kind.namespaced and not info.namespace:
            raise method_not_allowed()
        if resource.name in _DEPRECATED:
            call.warnings.add(_DEPRECATED[resource.name])
        return await self.verbs[verb](self.core, call, resource)

    def _subresource_handler(self, call: Call, resource: Resource) -> ResourceHandler | None:
        """The handler of a subresource; None when the kind has no such subresource. Raises 405."""
        info = call.info
        row = resource.kind.subresource(info.subresource)
        if row is None:
            return None
        table = self.subresources
        for owner in (resource.name, "*"):
            for verb in (info.verb, "*"):
                handler = table.get((owner, info.subresource, verb))
                if handler is not None:
                    return handler
        raise method_not_allowed()

    def _unknown_resource(self, call: Call) -> web.StreamResponse:
        """404: as text outside of the served groups, as a Status within them."""
        info = call.info
        served = {(each.kind.group, each.kind.version) for each in self.core.catalog}
        if (info.group, info.version) not in served:
            return respond_not_found(call)
        text = "the server could not find the requested resource"
        raise ApiError(404, "NotFound", text, {})

    async def _dispatch_path(self, call: Call) -> web.StreamResponse:
        path = call.info.path
        handler = self.paths.get(path)
        if handler is None:
            handler = next(
                (each for prefix, each in self.prefixes.items() if path.startswith(prefix)), None
            )
        if handler is None:
            return respond_not_found(call)
        return await handler(self.core, call)


def path_of(target: str) -> str:
    """The path of a request target in absolute form (RFC 9112, 3.2.2); others are left alone."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return target
    _, slash, path = rest.partition("/")
    return slash + path or "/"


def timed_out() -> ApiError:
    text = "request did not complete within the allotted timeout"
    return ApiError(504, "Timeout", f"Timeout: {text}", {})


def respond_too_many(call: Call) -> web.Response:
    """429, as text: upstream's handler is older than the Status object."""
    response = respond_text(call, "Too many requests, please try again later.\n", 429)
    response.headers["Retry-After"] = "1"
    return response


def _group_version(info: RequestInfo) -> tuple[str, str]:
    """Which group version a path is below; ("", "") for none."""
    if info.is_resource:
        return info.group, info.version
    segments = info.path.strip("/").split("/")
    if segments[0] == "apis" and len(segments) == 3:
        return segments[1], segments[2]
    return ("", segments[1]) if segments[0] == "api" and len(segments) == 2 else ("", "")


_DEPRECATED = {
    "endpoints": ("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
}
_ITEM_VERBS = frozenset({"get", "update", "patch", "delete"})
_STREAMED = frozenset({"attach", "exec", "log", "portforward", "proxy"})
"""Subresources whose answers are somebody else's: what the client accepts is not for us to judge.
"""

"""The kubelet's paths about the node: its pods, configuration, health, statistics and metrics.

Paths are upstream's (`pkg/kubelet/server`). Profiles of a Go program there are none, so
`/debug/pprof` answers as upstream does where profiling is switched off.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from navarch.api.errors import ApiError
from navarch.api.health import Check, HealthAnswer, HealthChecks
from navarch.api.types.core_v1 import Pod
from navarch.client.clock import Clock

from ..settings import NodeOptions
from . import zpages
from .backend import ServerBackend, Statistics
from .node_logs import serve_logs

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
METRICS = "text/plain; version=0.0.4; charset=utf-8"
VERBOSE_LEVEL = 4
"""From this verbosity on upstream logs what here counts as details."""
DISABLED = ("run", "exec", "attach", "portForward", "containerLogs", "runningpods", "logs")


@dataclass(frozen=True)
class NodeInside:
    """What the paths show; each is asked anew for every request."""

    options: NodeOptions
    backend: ServerBackend
    statistics: Statistics
    configuration: Callable[[], Mapping[str, Any]]
    checks: Mapping[str, Check]
    clock: Clock


def plain(answer: HealthAnswer) -> web.Response:
    headers = {"X-Content-Type-Options": "nosniff"}
    return web.Response(text=answer.text, status=answer.status, headers=headers)


class NodePaths:
    """Handlers of the node's paths."""

    def __init__(self, inside: NodeInside) -> None:
        self._inside = inside
        self._health = HealthChecks()
        self._paths: list[str] = []

    def add_health(self, router: web.UrlDispatcher) -> None:
        """What also the port for local health checks offers: it tells nothing else."""
        self._add(router, "GET", "/healthz", self.healthz)
        self._add(router, "GET", "/healthz/{check:.+}", self.one_check)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Everything but what is about single pods."""
        options = self._inside.options
        self.add_health(router)
        for path, handler in (
            ("/pods", self.pods),
            ("/pods/", self.pods),
            ("/stats/summary", self.summary),
            ("/metrics", self.metrics),
            ("/metrics/slis", self.slis),
            ("/metrics/cadvisor", self.cadvisor),
            ("/metrics/resource", self.resource),
            ("/metrics/probes", self.probes),
        ):
            self._add(router, "GET", path, handler)
        self._add(router, "POST", "/stats/summary", self.summary)
        if not options.enable_debugging_handlers:
            text = "Debug endpoints are disabled."
            for name in DISABLED:
                self._disable(router, f"/{name}", text)
            self._disable(router, "/debug/pprof", text)
            return
        self._add(router, "GET", "/runningpods", self.running_pods)
        self._add(router, "GET", "/runningpods/", self.running_pods)
        self._add(router, "GET", "/configz", self.configz)
        if options.enable_system_log_handler:
            self._add(router, "GET", "/logs", self.logs)
            self._add(router, "GET", "/logs/{path:.*}", self.logs)
        else:
            self._disable(router, "/logs", "logs endpoint is disabled.")
        self._disable(router, "/debug/pprof", "profiling endpoint is disabled.")
        if options.enable_debug_flags_handler:
            self._add(router, "PUT", "/debug/flags/v", self.verbosity)
        else:
            self._disable(router, "/debug/flags", "flags endpoint is disabled.")
        self._add(router, "GET", "/flagz", self.flagz)
        self._add(router, "GET", "/statusz", self.statusz)

    def _add(self, router: web.UrlDispatcher, method: str, path: str, handler: Handler) -> None:
        router.add_route(method, path, handler)
        if "{" not in path and path not in self._paths:
            self._paths.append(path)

    def _disable(self, router: web.UrlDispatcher, path: str, text: str) -> None:
        async def refuse(request: web.Request) -> web.StreamResponse:
            raise ApiError(405, "MethodNotAllowed", f"{text}\n")

        router.add_route("*", path, refuse)
        router.add_route("*", path + "/{rest:.*}", refuse)

    # Pods and configuration

    async def pods(self, request: web.Request) -> web.Response:
        return _pod_list(self._inside.backend.pods())

    async def running_pods(self, request: web.Request) -> web.Response:
        return _pod_list(await self._inside.backend.running_pods())

    async def configz(self, request: web.Request) -> web.Response:
        return _json({"kubeletconfig": self._inside.configuration()})

    async def logs(self, request: web.Request) -> web.StreamResponse:
        options = self._inside.options
        may_query = options.enable_system_log_query
        return await serve_logs(request, options.node_logs_directory, may_query=may_query)

    async def verbosity(self, request: web.Request) -> web.Response:
        text = (await request.text()).strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            why = f'strconv.ParseInt: parsing "{text}": invalid syntax'
            raise ApiError(400, "BadRequest", f'error setting new value "{text}": {why}')
        level = logging.DEBUG if int(text) >= VERBOSE_LEVEL else logging.INFO
        logging.getLogger("navarch").setLevel(level)
        return web.Response(text=f"successfully set klog.logging.verbosity to {text}")

    async def flagz(self, request: web.Request) -> web.StreamResponse:
        return zpages.flagz(request, "kubelet", zpages.flags_of(self._inside.options))

    async def statusz(self, request: web.Request) -> web.StreamResponse:
        now = self._inside.clock.now()
        return zpages.statusz(request, "kubelet", sorted(self._paths), now)

    # Health

    async def healthz(self, request: web.Request) -> web.Response:
        query = request.query
        excluded, verbose = query.getall("exclude", []), "verbose" in query
        checks = self._inside.checks
        return plain(self._health.summary("healthz", checks, excluded, verbose=verbose))

    async def one_check(self, request: web.Request) -> web.Response:
        return plain(self._health.one("healthz", request.match_info["check"], self._inside.checks))

    # Statistics

    async def summary(self, request: web.Request) -> web.Response:
        query = request.query
        if request.method == "POST" and request.content_type.endswith("urlencoded"):
            query = await request.post() or query  # type: ignore[assignment]
        narrow = query.getall("only_cpu_and_memory", [])
        return _json(await self._inside.statistics.summary(only_cpu_and_memory=narrow == ["true"]))

    async def resource(self, request: web.Request) -> web.Response:
        return _metrics(await self._inside.statistics.resource_metrics())

    async def cadvisor(self, request: web.Request) -> web.Response:
        return _metrics(await self._inside.statistics.cadvisor_metrics())

    async def metrics(self, request: web.Request) -> web.Response:
        return _metrics(await self._inside.statistics.kubelet_metrics())

    async def probes(self, request: web.Request) -> web.Response:
        return _metrics(self._inside.statistics.probe_metrics())

    async def slis(self, request: web.Request) -> web.Response:
        return _metrics("\n".join([*self._health.metrics(), ""]).encode())


def _pod_list(pods: Iterable[Pod]) -> web.Response:
    return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(pods)})


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _metrics(body: bytes) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": METRICS})

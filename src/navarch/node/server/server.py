"""The kubelet's HTTPS server, and the port on loopback where its health can be asked.

The API server is its usual client (pods/log, pods/exec and so on end here), metrics-server and
Prometheus its next. Nobody gets in without saying who they are; the health port tells nothing but
health. A port for reading without credentials (upstream's 10255) is never opened.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import Counter, Gauge, Histogram

from navarch.api.errors import ApiError

from .access import Access
from .node_paths import NodeInside, NodePaths
from .pod_paths import PodPaths
from .tls import TlsOptions, server_context

log = logging.getLogger("navarch.node.server")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LINE_LIMIT = 1024 * 1024
"""The command of an exec is in the first line of its request."""
BODY_LIMIT = 64 * 1024
BUCKETS = frozenset(
    {
        *("healthz", "pods", "stats", "metrics", "metrics/cadvisor", "metrics/probes"),
        *("metrics/resource", "run", "exec", "attach", "portForward", "containerLogs", "configz"),
        *("runningpods", "checkpoint", "flagz", "statusz", "logs", "debug"),
    }
)
LONG_RUNNING = frozenset({"exec", "attach", "portforward", "debug"})
METHODS = frozenset({"OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"})

_LABELS = ("method", "path", "server_type", "long_running")
requests_total = Counter(
    "kubelet_http_requests",
    "Number of the http requests received since the server started",
    _LABELS,
)
requests_inflight = Gauge(
    "kubelet_http_inflight_requests", "Number of the inflight http requests", _LABELS
)
requests_duration = Histogram(
    "kubelet_http_requests_duration_seconds",
    "Duration in seconds to serve http requests",
    _LABELS,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


@dataclass(frozen=True, slots=True)
class KubeletServerOptions:
    """Where to listen, and with which certificate."""

    address: str
    port: int
    tls: TlsOptions
    healthz_address: str = "127.0.0.1"
    healthz_port: int = 0
    """0: no port for health checks."""


class KubeletServer:
    """Serves a node to callers that `Access` lets through."""

    def __init__(self, options: KubeletServerOptions, inside: NodeInside, access: Access) -> None:
        self._options, self._inside, self._access = options, inside, access
        self._paths = NodePaths(inside)
        self._runners: list[web.AppRunner] = []

    def application(self) -> web.Application:
        app = web.Application(
            middlewares=[self._counted, self._front_door], client_max_size=BODY_LIMIT
        )
        self._paths.add_to(app.router)
        options = self._inside.options
        if options.enable_debugging_handlers:
            gate = options.feature_gates.get("ContainerCheckpoint", True)
            PodPaths(self._inside.backend).add_to(app.router, checkpoint=gate)
        return app

    def health_application(self) -> web.Application:
        app = web.Application(middlewares=[_worded])
        NodePaths(self._inside).add_health(app.router)
        return app

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken; without its port for health checks the
        node can do its work, so that one may be."""
        options = self._options
        context = server_context(options.tls)
        runner = await self._runner(self.application())
        site = web.TCPSite(runner, options.address, options.port, ssl_context=context)
        await site.start()
        if options.healthz_port:
            runner = await self._runner(self.health_application())
            try:
                await web.TCPSite(runner, options.healthz_address, options.healthz_port).start()
            except OSError as error:
                log.warning("no port for health checks: %s", error)

    async def _runner(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(
            app,
            access_log=None,
            max_line_size=LINE_LIMIT,
            max_field_size=LINE_LIMIT,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def stop(self) -> None:
        while self._runners:
            await self._runners.pop().cleanup()

    @web.middleware
    async def _counted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        labels = _labels_of(request)
        requests_total.labels(*labels).inc()
        running = requests_inflight.labels(*labels)
        running.inc()
        clock = self._inside.clock
        start = clock.monotonic()
        try:
            return await handler(request)
        finally:
            running.dec()
            requests_duration.labels(*labels).observe(clock.monotonic() - start)

    @web.middleware
    async def _front_door(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        async def checked(request: web.Request) -> web.StreamResponse:
            transport = request.transport
            tls = transport.get_extra_info("ssl_object") if transport is not None else None
            certificate = tls.getpeercert(binary_form=True) if tls is not None else None
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            bearer = token.strip() if scheme.lower() == "bearer" else ""
            await self._access.check(request.method, request.path, certificate, bearer)
            return await handler(request)

        return await _answered(request, checked)


@web.middleware
async def _worded(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await _answered(request, handler)


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as plain text, in the words of upstream's server."""
    try:
        return await handler(request)
    except ApiError as error:
        return web.Response(status=error.status, text=error.message)
    except web.HTTPException as error:
        if error.status in (404, 405):
            name = "Page Not Found" if error.status == 404 else "Method Not Allowed"
            return web.Response(status=error.status, text=f"{error.status}: {name}")
        raise
    except (ConnectionError, TimeoutError):
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return web.Response(status=500, text="internal error")


def _labels_of(request: web.Request) -> tuple[str, str, str, str]:
    """Names that clients choose freely are counted as one."""
    parts = request.path.lstrip("/").split("/", 2)
    root = "/".join(parts[:2]) if parts[0] == "metrics" and len(parts) > 1 else parts[0]
    path = root if root in BUCKETS else "other"
    method = request.method if request.method in METHODS else "other"
    return method, path, "readwrite", str(path in LONG_RUNNING).lower()

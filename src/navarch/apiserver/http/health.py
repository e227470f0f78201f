"""`/healthz`, `/livez`, `/readyz` with their checks, `/version`, `/metrics` and the index `/`."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import fields

from aiohttp import web

from navarch import __version__
from navarch.api.health import Check, HealthChecks
from navarch.apiserver.core import Core
from navarch.apiserver.flowcontrol.dump import metrics as flow_metrics
from navarch.apiserver.http.app import App, PathHandler
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.respond import base_headers, respond_object, respond_text

MAJOR, MINOR, PATCH = "1", "36", "0"

START_HOOKS = (
    "start-apiserver-admission-initializer",
    "storage-readiness",
    "generic-apiserver-start-informers",
    "priority-and-fairness-config-consumer",
    "priority-and-fairness-filter",
    "start-apiextensions-informers",
    "start-apiextensions-controllers",
    "crd-informer-synced",
    "start-system-namespaces-controller",
    "start-cluster-authentication-info-controller",
    "start-kube-apiserver-identity-lease-controller",
    "start-kube-apiserver-identity-lease-garbage-collector",
    "start-legacy-token-tracking-controller",
    "start-service-ip-repair-controllers",
    "rbac/bootstrap-roles",
    "scheduling/bootstrap-system-priority-classes",
    "priority-and-fairness-config-producer",
    "bootstrap-controller",
    "start-kubernetes-service-cidr-controller",
    "aggregator-reload-proxy-client-cert",
    "start-kube-aggregator-informers",
    "apiservice-status-local-available-controller",
    "apiservice-status-remote-available-controller",
    "apiservice-registration-controller",
    "apiservice-discovery-controller",
    "kube-apiserver-autoregistration",
    "apiservice-openapi-controller",
    "apiservice-openapiv3-controller",
)
"""The parts of upstream's start, by which probes and dashboards leave checks out. Here they are one
step, and are done together."""


class Health:
    """Named checks behind the three health paths."""

    def __init__(self, core: Core, is_started: Check) -> None:
        self._following: Check = lambda: core.hub.is_following
        hooks = {f"poststarthook/{name}": is_started for name in START_HOOKS}
        base: dict[str, Check] = {"ping": lambda: True, "log": lambda: True}
        self._started = {**hooks, "autoregister-completion": is_started}
        self.checks: dict[str, Check] = {**base, "etcd": self._following}
        """What all three paths check, beside the end of the server's own start."""
        self.ready_checks: dict[str, Check] = {
            "etcd-readiness": self._following,
            "informer-sync": self._following,
        }
        """What only `/readyz` checks."""
        self._counts = HealthChecks()

    def add_to(self, app: App) -> None:
        for name in ("healthz", "livez", "readyz"):
            handler = self._handler(name)
            app.paths[f"/{name}"] = handler
            app.prefixes[f"/{name}/"] = handler
        app.paths["/metrics/slis"] = self._slis

    def _handler(self, name: str) -> PathHandler:
        async def handle(core: Core, call: Call) -> web.StreamResponse:
            checks = {**self.checks, **self._started}
            if name == "readyz":
                checks = {**self.checks, **self.ready_checks, **self._started}
            wanted = call.info.path.strip("/").partition("/")[2]
            query = call.target.query
            if wanted:
                answer = self._counts.one(name, wanted, checks)
            else:
                answer = self._counts.summary(
                    name, checks, query.get("exclude", ()), verbose="verbose" in query
                )
            return respond_text(call, answer.text, answer.status)

        return handle

    async def _slis(self, core: Core, call: Call) -> web.StreamResponse:
        return respond_metrics(call, self._counts.metrics())


def respond_metrics(call: Call, lines: Iterable[str]) -> web.Response:
    """Lines in Prometheus' text format."""
    headers = base_headers(call)
    headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
    return web.Response(body="\n".join([*lines, ""]).encode(), headers=headers)


async def version(core: Core, call: Call) -> web.StreamResponse:
    """What this server says it is: Kubernetes, and in the build metadata whose."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return respond_object(
        call,
        {
            "major": MAJOR,
            "minor": MINOR,
            "emulationMajor": MAJOR,
            "emulationMinor": MINOR,
            "minCompatibilityMajor": MAJOR,
            "minCompatibilityMinor": str(int(MINOR) - 1),
            "gitVersion": f"v{MAJOR}.{MINOR}.{PATCH}+navarch-{__version__}",
            "gitCommit": "unknown",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": f"python{platform.python_version()}",
            "compiler": platform.python_implementation().lower(),
            "platform": f"linux/{machine}",
        },
    )


def metrics_handler(app: App) -> PathHandler:
    async def metrics(core: Core, call: Call) -> web.StreamResponse:
        lines = app.metrics.render()
        lines.extend(core.webhooks.metrics.render())
        lines.append("# TYPE apiserver_storage_objects gauge")
        for cache in core.hub.caches():
            resource = cache.stored.prefix.removeprefix("/registry/").strip("/")
            lines.append(f'apiserver_storage_objects{{resource="{resource}"}} {cache.count}')
        lines.append("# TYPE apiserver_storage_cache_bytes gauge")
        total = sum(cache.size for cache in core.hub.caches())
        lines.append(f"apiserver_storage_cache_bytes {total}")
        lines.extend(_store_lines(core))
        lines.append("# TYPE apiserver_longrunning_requests gauge")
        lines.extend(
            f'apiserver_longrunning_requests{{verb="{name}"}} {value}'
            for name, value in sorted(core.gauges.items())
        )
        if core.flow_control is not None:
            lines.extend(flow_metrics(core.flow_control))
        for source in app.metric_sources:
            lines.extend(source())
        lines.append("# TYPE apiserver_storage_revision gauge")
        lines.append(f"apiserver_storage_revision {core.hub.revision}")
        return respond_metrics(call, lines)

    return metrics


def _store_lines(core: Core) -> Iterator[str]:
    """What the store tells of itself."""
    statistics = core.store.statistics()
    for field in fields(statistics):
        name = f"navarch_store_{field.name}"
        kind = "counter" if field.name in _STORE_COUNTERS else "gauge"
        yield f"# TYPE {name} {kind}"
        yield f"{name} {float(getattr(statistics, field.name)):g}"


_STORE_COUNTERS = frozenset({"slow_watchers_ended", "commits", "writes", "commit_seconds"})


def index_handler(app: App) -> PathHandler:
    """`/`: every path there is."""

    async def index(core: Core, call: Call) -> web.StreamResponse:
        paths = {path for path in app.paths if path != "/"}
        for resource in core.catalog:
            group, version = resource.kind.group, resource.kind.version
            base = f"/apis/{group}" if group else "/api"
            paths |= {base, f"{base}/{version}"}
        return respond_object(call, {"paths": sorted(paths)})

    return index

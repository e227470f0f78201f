"""`/healthz`, `/livez`, `/readyz` with their checks, `/version`, `/metrics` and the index `/`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import fields

from aiohttp import web

from navarch import __version__
from navarch.apiserver.core import Core
from navarch.apiserver.flowcontrol.dump import metrics as flow_metrics
from navarch.apiserver.http.app import App, PathHandler
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.respond import base_headers, respond_object, respond_text

Check = Callable[[], bool]
MAJOR, MINOR, PATCH = "1", "36", "0"


class Health:
    """Named checks behind the three health paths."""

    def __init__(self, core: Core) -> None:
        self.checks: dict[str, Check] = {
            "ping": lambda: True,
            "log": lambda: True,
            "etcd": lambda: core.hub.is_following,
        }
        """What all three paths check."""
        self.ready_checks: dict[str, Check] = {}
        """What only `/readyz` checks, such as the end of the server's own start."""

    def add_to(self, app: App) -> None:
        for name in ("healthz", "livez", "readyz"):
            handler = self._handler(name)
            app.paths[f"/{name}"] = handler
            app.prefixes[f"/{name}/"] = handler

    def _handler(self, name: str) -> PathHandler:
        async def handle(core: Core, call: Call) -> web.StreamResponse:
            checks = dict(self.checks)
            if name == "readyz":
                checks |= self.ready_checks
            wanted = call.info.path.strip("/").partition("/")[2]
            if not wanted:
                return self._summary(call, name, checks)
            if wanted not in checks:
                return respond_text(call, "404 page not found\n", 404)
            if checks[wanted]():
                return respond_text(call, "ok")
            return respond_text(call, f"internal server error: {wanted} failed\n", 500)

        return handle

    def _summary(self, call: Call, name: str, checks: dict[str, Check]) -> web.Response:
        excluded = set(call.target.query.get("exclude", ()))
        lines = []
        is_good = True
        for each, check in checks.items():
            if each in excluded:
                lines.append(f"[+]{each} excluded: ok")
            elif check():
                lines.append(f"[+]{each} ok")
            else:
                is_good = False
                lines.append(f"[-]{each} failed: reason withheld")
        unknown = ",".join(f'"{each}"' for each in sorted(excluded - checks.keys()))
        if unknown:
            text = f"warn: some health checks cannot be excluded: no matches for {unknown}"
            lines.append(text.replace(",", ", "))
        # Whoever asks what is wrong is told at length.
        if not is_good:
            return respond_text(call, "\n".join([*lines, f"{name} check failed"]) + "\n", 500)
        if "verbose" in call.target.query:
            return respond_text(call, "\n".join([*lines, f"{name} check passed"]) + "\n")
        return respond_text(call, "ok")


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
        headers = base_headers(call)
        headers["Content-Type"] = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body="\n".join([*lines, ""]).encode(), headers=headers)

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

"""The kubelet's HTTPS server: /containerLogs, /exec, /attach, /portForward, /run, /pods, /healthz.

The API server is its usual client (pods/log, pods/exec and so on end here); paths and parameters
are upstream's (`pkg/kubelet/server`).
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from aiohttp import web

from navarch.api.errors import ApiError, bad_request
from navarch.api.times import parse_time
from navarch.node.server import streams
from navarch.node.server.access import Access
from navarch.node.server.backend import ServerBackend, Streams
from navarch.node.server.logs import LogOptions, read_log
from navarch.streaming.channels import Channel

log = logging.getLogger("navarch.node.server")
TRUE = ("1", "t", "T", "true", "TRUE", "True")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class KubeletServerOptions:
    """Where to listen, and the files of the serving certificate and of the CA of clients."""

    address: str
    port: int
    certificate: str
    key: str
    client_ca: str


def log_options(query: Mapping[str, str], now: datetime) -> LogOptions:
    """The options in the query of a log request. Raises ApiError 400."""

    def number(name: str) -> int | None:
        if name not in query:
            return None
        try:
            return int(query[name])
        except ValueError:
            raise bad_request(f"{name}: {query[name]!r} is not a number") from None

    seconds = number("sinceSeconds")
    since = None if seconds is None else now - timedelta(seconds=seconds)
    if "sinceTime" in query:
        try:
            since = parse_time(query["sinceTime"])
        except ValueError as error:
            raise bad_request(f"sinceTime: {error}") from error
    stream = query.get("stream", "All")
    if stream not in ("All", "Stdout", "Stderr", ""):
        raise bad_request(f'invalid stream type "{stream}"')
    return LogOptions(
        follow=query.get("follow") in TRUE,
        timestamps=query.get("timestamps") in TRUE,
        since=since,
        tail=number("tailLines"),
        limit=number("limitBytes"),
        stream="" if stream == "All" else stream.lower(),
    )


def wanted_streams(query: Mapping[str, str]) -> Streams:
    """The streams in the query of an exec or attach. Raises ApiError 400."""
    result = Streams(
        stdin=query.get("input") in TRUE,
        stdout=query.get("output") in TRUE,
        stderr=query.get("error") in TRUE,
        tty=query.get("tty") in TRUE,
    )
    if not (result.stdin or result.stdout or result.stderr):
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    return result


def channels_of(wanted: Streams) -> frozenset[Channel]:
    """The channels of these streams; a terminal has no stderr of its own but can be resized."""
    present = {
        Channel.STDIN: wanted.stdin,
        Channel.STDOUT: wanted.stdout,
        Channel.STDERR: wanted.stderr and not wanted.tty,
        Channel.RESIZE: wanted.tty,
    }
    return frozenset(channel for channel, here in present.items() if here)


LINE_LIMIT = 1024 * 1024
"""The command of an exec is in the first line of its request."""


class KubeletServer:
    """Serves a `ServerBackend` to callers that `Access` lets through."""

    def __init__(self, options: KubeletServerOptions, backend: ServerBackend, access: Access):
        self._options = options
        self._backend = backend
        self._access = access
        self._runner: web.AppRunner | None = None

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._front_door])
        pod = "/{namespace}/{pod}"
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/pods", self.list_pods)
        app.router.add_get("/containerLogs" + pod + "/{container}", self.container_logs)
        app.router.add_post("/run" + pod + "/{container}", self.run)
        app.router.add_post("/run" + pod + "/{uid}/{container}", self.run)
        handlers: dict[str, Handler] = {"exec": self.exec, "attach": self.attach}
        for method in ("GET", "POST"):
            for name, handler in handlers.items():
                app.router.add_route(method, f"/{name}{pod}/{{container}}", handler)
                app.router.add_route(method, f"/{name}{pod}/{{uid}}/{{container}}", handler)
            app.router.add_route(method, "/portForward" + pod, self.port_forward)
            app.router.add_route(method, "/portForward" + pod + "/{uid}", self.port_forward)
        return app

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._options.certificate, self._options.key)
        context.load_verify_locations(self._options.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._runner = web.AppRunner(
            self.application(), access_log=None, max_line_size=LINE_LIMIT, max_field_size=LINE_LIMIT
        )
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            self._options.address,
            self._options.port,
            ssl_context=context,
            shutdown_timeout=1.0,
        )
        await site.start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _front_door(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            transport = request.transport
            tls = transport.get_extra_info("ssl_object") if transport is not None else None
            certificate = tls.getpeercert(binary_form=True) if tls is not None else None
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            bearer = token.strip() if scheme.lower() == "bearer" else ""
            await self._access.check(request.method, request.path, certificate, bearer)
            return await handler(request)
        except ApiError as error:
            return web.Response(status=error.status, text=error.message)
        except web.HTTPException:
            raise
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return web.Response(status=500, text="internal error")

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def list_pods(self, request: web.Request) -> web.Response:
        pods = list(self._backend.pods())
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    async def container_logs(self, request: web.Request) -> web.StreamResponse:
        place = request.match_info
        names = (place["namespace"], place["pod"], place["container"])
        options = log_options(request.query, datetime.now(UTC))
        previous = request.query.get("previous") in TRUE
        path = self._backend.log_file(*names, previous=previous)
        if not path.exists():
            raise ApiError(500, "InternalError", f"failed to open the log file of {names[2]}")

        def is_running() -> bool:
            return not previous and self._backend.is_running(*names)

        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for chunk in read_log(path, options, is_running):
            await response.write(chunk)
        await response.write_eof()
        return response

    async def exec(self, request: web.Request) -> web.StreamResponse:
        streams.require_upgrade(request)
        place = request.match_info
        wanted = wanted_streams(request.query)
        command = request.query.getall("command", [])
        url = await self._backend.exec_url(
            place["namespace"], place["pod"], place["container"], command, wanted
        )
        return await streams.serve(request, url, channels_of(wanted))

    async def attach(self, request: web.Request) -> web.StreamResponse:
        streams.require_upgrade(request)
        place = request.match_info
        wanted = wanted_streams(request.query)
        url = await self._backend.attach_url(
            place["namespace"], place["pod"], place["container"], wanted
        )
        return await streams.serve(request, url, channels_of(wanted))

    async def port_forward(self, request: web.Request) -> web.StreamResponse:
        streams.require_upgrade(request)
        place = request.match_info
        ports = streams.forwarded_ports(request)
        url = await self._backend.port_forward_url(place["namespace"], place["pod"], ports)
        return await streams.serve(request, url, frozenset())

    async def run(self, request: web.Request) -> web.Response:
        place = request.match_info
        command = request.query.get("cmd", "").split(" ")
        code, output = await self._backend.run(
            place["namespace"], place["pod"], place["container"], command
        )
        if code:
            text = output.decode(errors="replace")
            raise ApiError(500, "InternalError", f"command terminated with {code}: {text}")
        return web.Response(body=output, content_type="text/plain")

"""The kubelet's paths about one pod: logs, exec, attach, port-forward, run, checkpoint.

Paths and parameters are upstream's (`pkg/kubelet/server`), and so are the texts of refusals.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta

from aiohttp import web

from navarch.api.errors import ApiError, bad_request
from navarch.api.times import parse_time
from navarch.streaming.channels import Channel

from . import streams
from .backend import ServerBackend, Streams
from .logs import LogOptions, open_log, read_log

TRUE = ("1", "t", "T", "true", "TRUE", "True")


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


class PodPaths:
    """Handlers; the backend knows the pods."""

    def __init__(self, backend: ServerBackend) -> None:
        self._backend = backend

    def add_to(self, router: web.UrlDispatcher, *, checkpoint: bool) -> None:
        pod, container = "/{namespace}/{pod}", "/{container}"
        router.add_get("/containerLogs" + pod + container, self.container_logs)
        if checkpoint:
            router.add_post("/checkpoint" + pod + container, self.checkpoint)
        for infix in ("", "/{uid}"):
            router.add_post("/run" + pod + infix + container, self.run)
            for method in ("GET", "POST"):
                router.add_route(method, "/exec" + pod + infix + container, self.exec)
                router.add_route(method, "/attach" + pod + infix + container, self.attach)
                router.add_route(method, "/portForward" + pod + infix, self.port_forward)

    def _check_uid(self, request: web.Request, message: str, status: int = 500) -> None:
        """A path may name the very pod that is meant: its successor of the same name will not do.
        Raises ApiError."""
        place = request.match_info
        uid = place.get("uid", "")
        if uid and self._backend.uid(place["namespace"], place["pod"]) != uid:
            raise ApiError(status, "NotFound" if status == 404 else "InternalError", message)

    async def container_logs(self, request: web.Request) -> web.StreamResponse:
        place = request.match_info
        names = (place["namespace"], place["pod"], place["container"])
        query = dict(request.query)
        if (tail := query.pop("tail", "")) and tail != "all":
            query["tailLines"] = tail
        options = log_options(query, datetime.now(UTC))
        if (options.tail or 0) < 0 or (options.limit is not None and options.limit < 1):
            raise ApiError(422, "Invalid", '{"message": "Invalid request."}')
        previous = query.get("previous") in TRUE
        path = self._backend.log_file(*names, previous=previous)
        try:
            open_log(path).close()
        except OSError:
            problem = f"failed to open the log file of {names[2]}"
            raise ApiError(500, "InternalError", problem) from None

        def is_running() -> bool:
            # Who has left is not waited for: a silent container might never tell.
            is_heard = request.transport is not None and not request.transport.is_closing()
            return not previous and is_heard and self._backend.is_running(*names)

        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        with suppress(ConnectionResetError):
            async with aclosing(read_log(path, options, is_running)) as chunks:
                async for chunk in chunks:
                    await response.write(chunk)
            await response.write_eof()
        return response

    async def exec(self, request: web.Request) -> web.StreamResponse:
        streams.require_upgrade(request)
        place = request.match_info
        wanted = wanted_streams(request.query)
        command = request.query.getall("command", [])
        self._check_uid(request, f'container not found ("{place["container"]}")')
        url = await self._backend.exec_url(
            place["namespace"], place["pod"], place["container"], command, wanted
        )
        return await streams.serve(request, url, channels_of(wanted))

    async def attach(self, request: web.Request) -> web.StreamResponse:
        streams.require_upgrade(request)
        place = request.match_info
        wanted = wanted_streams(request.query)
        self._check_uid(request, f"container {place['container']} not found in pod {place['pod']}")
        url = await self._backend.attach_url(
            place["namespace"], place["pod"], place["container"], wanted
        )
        return await streams.serve(request, url, channels_of(wanted))

    async def port_forward(self, request: web.Request) -> web.StreamResponse:
        streams.require_upgrade(request)
        place = request.match_info
        ports = streams.forwarded_ports(request)
        self._check_uid(request, "pod not found", 404)
        url = await self._backend.port_forward_url(place["namespace"], place["pod"], ports)
        return await streams.serve(request, url, frozenset())

    async def run(self, request: web.Request) -> web.Response:
        place = request.match_info
        command = request.query.get("cmd", "").split(" ")
        self._check_uid(request, f'container not found ("{place["container"]}")')
        code, output = await self._backend.run(
            place["namespace"], place["pod"], place["container"], command
        )
        if code:
            text = output.decode(errors="replace")
            raise ApiError(500, "InternalError", f"command terminated with {code}: {text}")
        return web.Response(body=output, content_type="text/plain")

    async def checkpoint(self, request: web.Request) -> web.Response:
        place = request.match_info
        names = (place["namespace"], place["pod"], place["container"])
        given = request.query.getall("timeout", ["0"])[-1]
        digits = given[1:] if given[:1] in ("-", "+") else given
        if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
            raise ApiError(404, "NotFound", "cannot parse value of timeout parameter")
        file = await self._backend.checkpoint(*names, timeout=int(given))
        return web.json_response({"items": [file]})

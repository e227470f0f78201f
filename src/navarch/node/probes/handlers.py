"""One run of a probe or of a lifecycle hook: a command, an HTTP request, a connection, a gRPC call.

Everything is bounded by a timeout and by how much of an answer is read. Requests go from the node
to the pod's address, without proxies, without checking certificates: the question is whether the
container answers, not who it is.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from navarch.api.numbers import natural
from navarch.api.times import format_duration
from navarch.api.types.core_v1 import Container, GRPCAction, HTTPGetAction, Probe

from ..cri.runtime import Runtime
from ..cri.values import RuntimeFailure
from ..environment import expand

PROBE_AGENT = "kube-probe/1.36"
HOOK_AGENT = "kube-lifecycle/1.36"
OUTPUT_LIMIT = 10 * 1024
HEAD_LIMIT = 1024 * 1024
MAXIMUM_REQUESTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
PLAIN_ANSWER = "http: server gave HTTP response to HTTPS client"
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_GRPC_OPTIONS = [
    ("grpc.primary_user_agent", PROBE_AGENT),
    ("grpc.enable_http_proxy", 0),
    # No run finds a connection, or a grudge against an address, that another one has left.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", OUTPUT_LIMIT),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended. `warning` is a success that people should hear of."""

    success: bool
    message: str = ""
    warning: bool = False
    discarded: str = ""
    """The run itself went wrong and counts neither way; the word for it."""
    answered: bool = False
    """A request has got its answer, though not a success: a hook asks for no more."""


@dataclass(frozen=True)
class Target:
    """The container instance that is asked."""

    container: Container
    container_id: str
    host: str
    environment: Mapping[str, str] = field(default_factory=dict)


class UnknownPort(Exception):
    """A named port that the container does not have."""


def resolve_port(port: int | str, container: Container) -> int:
    """A number, or the number of the container's port of that name."""
    if isinstance(port, int):
        return port
    if (number := natural(port)) is not None:
        return number
    for each in container.ports:
        if each.name == port:
            return each.containerPort
    raise UnknownPort(f"couldn't find port: {port} in container {container.name}")


class Handlers:
    """Runs probes and hooks. Holds the one HTTP session they share."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def probe(self, probe: Probe, target: Target) -> Outcome:
        """One run of a probe."""
        timeout = float(probe.timeoutSeconds or 1)
        try:
            if probe.exec is not None:
                return await self._exec(target, probe.exec.command, timeout)
            if probe.httpGet is not None:
                return await self.http_get(probe.httpGet, target, timeout, PROBE_AGENT)
            if probe.tcpSocket is not None:
                port = resolve_port(probe.tcpSocket.port, target.container)
                return await _connect(probe.tcpSocket.host or target.host, port, timeout)
            if probe.grpc is not None:
                return await _grpc_health(probe.grpc, target.host, timeout)
        except UnknownPort as problem:
            return Outcome(False, str(problem), discarded="unknown")
        return Outcome(False, "the probe has no handler", discarded="unknown")

    async def _exec(self, target: Target, command: Sequence[str], timeout: float) -> Outcome:
        # A probe sees what the manifest says of the variables, not what they were resolved to.
        literal = {variable.name: variable.value for variable in target.container.env}
        command = [expand(word, literal) for word in command]
        try:
            result = await self._runtime.exec_sync(target.container_id, command, timeout)
        except RuntimeFailure as failure:
            if failure.is_timeout:
                text = f'command timed out: "{" ".join(command)}" timed out after '
                return Outcome(False, text + format_duration(timeout))
            # A command that could not be run says nothing about the container's health.
            return Outcome(False, failure.message, discarded="unknown")
        output = (result.stdout + result.stderr)[:OUTPUT_LIMIT].decode(errors="replace")
        return Outcome(result.exit_code == 0, output)

    async def http_get(
        self, action: HTTPGetAction, target: Target, timeout: float, agent: str
    ) -> Outcome:
        """200 to 399 is success. Redirects are followed on the same host only."""
        host = action.host or target.host
        port = resolve_port(action.port, target.container)
        path = action.path if action.path.startswith("/") else "/" + action.path
        scheme = (action.scheme or "HTTP").lower()
        url = f"{scheme}://{_bracketed(host)}:{port}{path}"
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            return await self._http(url, _headers(action, agent), deadline)
        except TimeoutError:
            text = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            return Outcome(False, f'Get "{url}": {text}')
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(False, f'Get "{url}": {_reason(error, host, port)}')

    async def _http(self, url: str, headers: CIMultiDict[str], deadline: float) -> Outcome:
        session = self._http_session()
        host = urlsplit(url).hostname
        for _ in range(MAXIMUM_REQUESTS):
            async with asyncio.timeout_at(deadline):
                response = await session.get(
                    URL(url, encoded=True), headers=headers, allow_redirects=False
                )
            async with response:
                location = response.headers.get("Location", "")
                is_redirect = response.status in REDIRECTS and bool(location)
                following = response.url.join(URL(location)) if is_redirect else None
                if following is None or following.host != host:
                    return await _verdict(response, deadline)
            url = str(following)
        return Outcome(False, f'Get "{url}": stopped after {MAXIMUM_REQUESTS} redirects')

    def _http_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # A probe must not find a connection that an earlier one has left open, and no
                # target hears what another one has set as its cookie.
                connector=aiohttp.TCPConnector(
                    ssl=_insecure_tls(), force_close=True, limit=0, use_dns_cache=False
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
                timeout=aiohttp.ClientTimeout(total=None),
                max_line_size=HEAD_LIMIT,
                max_field_size=HEAD_LIMIT,
                read_bufsize=OUTPUT_LIMIT,
            )
        return self._session


async def _verdict(response: aiohttp.ClientResponse, deadline: float) -> Outcome:
    """What the last answer means. No more of its body is read than may be shown."""
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline):
            while chunk := await response.content.read(OUTPUT_LIMIT - len(body)):
                body += chunk
    except TimeoutError:
        text = "context deadline exceeded (Client.Timeout or context cancellation while reading"
        return Outcome(False, f"{text} body)", discarded="failure")
    except (aiohttp.ClientError, OSError) as error:
        return Outcome(False, str(error) or "unexpected EOF", discarded="failure")
    text = body.decode(errors="replace")
    if not 200 <= response.status < 400:
        text = f"HTTP probe failed with statuscode: {response.status}"
        return Outcome(False, text, answered=True)
    if response.status >= 300:
        return Outcome(True, f"Probe terminated redirects, Response body: {text}", warning=True)
    return Outcome(True, text)


def _headers(action: HTTPGetAction, agent: str) -> CIMultiDict[str]:
    """The given headers, and those that a probe has unless they are given. An empty Accept or
    User-Agent means "send none"."""
    headers = CIMultiDict((header.name, header.value) for header in action.httpHeaders)
    for name, value in (("User-Agent", agent), ("Accept", "*/*")):
        if not headers.setdefault(name, value):
            headers.popall(name)
    headers["Connection"] = "close"
    return headers


def _insecure_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # Who does not ask for a name must not mind a short key either.
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    return context


async def _connect(host: str, port: int, timeout: float) -> Outcome:
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except TimeoutError:
        return Outcome(False, f"dial tcp {_bracketed(host)}:{port}: i/o timeout")
    except OSError as error:
        return Outcome(False, _reason(error, host, port))
    return Outcome(True)


async def _grpc_health(action: GRPCAction, host: str, timeout: float) -> Outcome:
    """grpc.health.v1.Health/Check; the two messages are so small that they are put together here:
    a string as field 1, an enum as field 1."""
    import grpc
    import grpc.aio

    name = (action.service or "").encode()
    request = b"\x0a" + _varint(len(name)) + name if name else b""
    address = f"{_bracketed(host)}:{action.port}"
    within = format_duration(timeout)
    is_connected = False
    try:
        async with (
            asyncio.timeout(timeout),
            grpc.aio.insecure_channel(address, options=_GRPC_OPTIONS) as channel,
        ):
            await channel.channel_ready()
            is_connected = True
            answer: bytes = await channel.unary_unary(_HEALTH_CHECK)(request)
    except TimeoutError:
        if is_connected:
            return Outcome(False, f"timeout: health rpc did not complete within {within}")
        text = f'timeout: failed to connect service "{address}" within {within}'
        return Outcome(False, f"{text}: context deadline exceeded")
    except grpc.aio.AioRpcError as error:
        text = error.details() or ""
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            protocol = "the grpc health protocol (grpc.health.v1.Health)"
            return Outcome(False, f"error: this server does not implement {protocol}: {text}")
        code = error.code().name.title().replace("_", "")
        text = f"rpc error: code = {code} desc = {text}"
        return Outcome(False, f"error: health rpc probe failed: {text}")
    status = answer[1] if answer[:1] == b"\x08" and len(answer) > 1 else 0
    if status == 1:
        return Outcome(True, "service healthy")
    names = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
    return Outcome(False, f'service unhealthy (responded with "{names.get(status, status)}")')


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _reason(error: BaseException, host: str, port: int) -> str:
    """What went wrong, in the words of Go's net/http, which people know from events."""
    cause = getattr(error, "os_error", error)
    place = f"tcp {_bracketed(host)}:{port}"
    if isinstance(cause, ssl.SSLError):
        if cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return PLAIN_ANSWER
        return f"remote error: tls: {cause.reason}"
    if isinstance(cause, ConnectionResetError):
        return f"read {place}: read: connection reset by peer"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"net/http: HTTP/1.x transport connection broken: {error.message}"
    if isinstance(cause, OSError) and cause.errno:
        return f"dial {place}: connect: {os.strerror(cause.errno).lower()}"
    return str(error) or type(error).__name__


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

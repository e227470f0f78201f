"""One run of a probe or of a lifecycle hook: a command, an HTTP request, a connection, a gRPC call.

Everything is bounded by a timeout and by how much of an answer is read. Requests go from the node
to the pod's address, without proxies, without checking certificates: the question is whether the
container answers, not who it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from navarch.api.types.core_v1 import Container, GRPCAction, HTTPGetAction, Probe

from ..cri.runtime import Runtime
from ..cri.values import RuntimeFailure

PROBE_AGENT = "kube-probe/1.36"
HOOK_AGENT = "kube-lifecycle/1.36"
OUTPUT_LIMIT = 10 * 1024
MAXIMUM_REDIRECTS = 10


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended. `warning` is a success that people should hear of."""

    success: bool
    message: str = ""
    warning: bool = False
    unknown: bool = False
    """The run itself went wrong: it counts neither way."""


@dataclass(frozen=True)
class Target:
    """The container instance that is asked."""

    container: Container
    container_id: str
    host: str
    node_host: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


class UnknownPort(Exception):
    """A named port that the container does not have."""


def resolve_port(port: int | str, container: Container) -> int:
    """A number, or the number of the container's port of that name."""
    if isinstance(port, int):
        return port
    if port.isdecimal():
        return int(port)
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
                return await self._exec(target.container_id, probe.exec.command, timeout)
            if probe.httpGet is not None:
                return await self.http_get(probe.httpGet, target, timeout, PROBE_AGENT)
            if probe.tcpSocket is not None:
                port = resolve_port(probe.tcpSocket.port, target.container)
                return await _connect(probe.tcpSocket.host or target.host, port, timeout)
            if probe.grpc is not None:
                return await _grpc_health(probe.grpc, target.host, timeout)
        except UnknownPort as problem:
            return Outcome(False, str(problem), unknown=True)
        return Outcome(False, "the probe has no handler", unknown=True)

    async def _exec(self, container_id: str, command: Sequence[str], timeout: float) -> Outcome:
        try:
            result = await self._runtime.exec_sync(container_id, command, timeout)
        except RuntimeFailure as failure:
            if failure.is_timeout:
                return Outcome(False, f"command timed out: {_quoted(command)} timed out after "
                                      f"{timeout:g}s")  # fmt: skip
            # A command that could not be run says nothing about the container's health.
            return Outcome(False, failure.message, unknown=True)
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
        try:
            async with asyncio.timeout(timeout):
                return await self._http(url, _headers(action, agent))
        except TimeoutError:
            return Outcome(
                False,
                f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting'
                " headers)",
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(False, f'Get "{url}": {_reason(error, host, port)}')

    async def _http(self, url: str, headers: dict[str, str]) -> Outcome:
        if self._session is None:
            # A probe must not find a connection that an earlier one has left open.
            connector = aiohttp.TCPConnector(
                ssl=_insecure_tls(), force_close=True, limit=0, use_dns_cache=False
            )
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        host = urlsplit(url).hostname
        for _ in range(MAXIMUM_REDIRECTS + 1):
            async with self._session.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False
            ) as response:
                body = (await response.content.read(OUTPUT_LIMIT)).decode(errors="replace")
                location = response.headers.get("Location", "")
                if response.status not in (301, 302, 303, 307, 308) or not location:
                    if 200 <= response.status < 400:
                        return Outcome(True, body)
                    return Outcome(False, f"HTTP probe failed with statuscode: {response.status}")
                following = response.url.join(URL(location))
            if following.host != host:
                return Outcome(
                    True, f"Probe terminated redirects, Response body: {body}", warning=True
                )
            url = str(following)
        return Outcome(False, f'Get "{url}": stopped after {MAXIMUM_REDIRECTS} redirects')


def _headers(action: HTTPGetAction, agent: str) -> dict[str, str]:
    headers = {"User-Agent": agent, "Accept": "*/*", "Connection": "close"}
    given = {header.name: header.value for header in action.httpHeaders}
    lower = {name.lower() for name in given}
    result = {name: value for name, value in headers.items() if name.lower() not in lower}
    # An empty Accept or User-Agent means "send none".
    skipped = ("accept", "user-agent")
    result |= {name: value for name, value in given.items() if value or name.lower() not in skipped}
    return result


def _insecure_tls() -> Any:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
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
    options = [("grpc.primary_user_agent", PROBE_AGENT), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer: bytes = await check(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code == grpc.StatusCode.UNIMPLEMENTED:
                text = "error: this server does not implement the grpc health protocol"
                return Outcome(False, f"{text} (grpc.health.v1.Health): {error.details()}")
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                return Outcome(False, f"timeout: health rpc did not complete within {timeout:g}s")
            if code == grpc.StatusCode.UNAVAILABLE:
                return Outcome(
                    False,
                    f'timeout: failed to connect service "{address}" within {timeout:g}s: '
                    f"{error.details()}",
                )
            return Outcome(False, f"error: health rpc probe failed: {error.details()}")
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
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ConnectionRefusedError):
        return f"dial tcp {_bracketed(host)}:{port}: connect: connection refused"
    if isinstance(cause, OSError) and cause.strerror:
        return f"dial tcp {_bracketed(host)}:{port}: {cause.strerror.lower()}"
    return str(error) or type(error).__name__


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _quoted(command: Sequence[str]) -> str:
    return '"' + " ".join(command) + '"'

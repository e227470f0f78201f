"""The client: one HTTP session to one API server, shared by everything in a process.

It turns failures into `ApiError`s. An answer with a `Status` becomes that error; no answer at all
(refused, reset, timed out, TLS trouble) becomes `ApiConnectionError`, a subclass with status 0, for
which the outcome of a write is unknown. Too busy (429) and unavailable (503) answers that carry
`Retry-After` are tried again as the server asks, as client-go does: such an answer promises that
nothing was done.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from navarch.api.errors import ApiError
from navarch.api.objects import Object
from navarch.client.clock import Clock, RealClock
from navarch.client.config import ClientConfig, Credentials
from navarch.client.exchange import Exchange
from navarch.client.metrics import requests_total
from navarch.client.objects import Codec, KubernetesObject, PartialObject

if TYPE_CHECKING:
    from navarch.client.resource import ResourceClient

S = TypeVar("S", bound=KubernetesObject)

JSON = "application/json"
MAX_RETRIES = 10
MAX_RETRY_AFTER = 30.0
_RETRIED = (429, 503)
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._~:-]*")
"""Paths that are sent as they are."""
DEAD_PEER_SECONDS = 30
"""A peer that is gone without a word (a cut cable, a frozen machine) is noticed after about this
long by TCP keep-alives, also on a watch that is silent because nothing happens."""


class ApiConnectionError(ApiError):
    """No answer from the API server. Whether a write was done is unknown."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "ConnectionFailed", message)


class Client:
    """Use as `async with Client(config) as client`, or `start()` and `close()`."""

    def __init__(self, config: ClientConfig, *, clock: Clock | None = None) -> None:
        self.config = config
        self.clock: Clock = clock or RealClock()
        self._host = urlsplit(config.server).netloc
        self.credentials = Credentials(config, self.clock)
        self._session: aiohttp.ClientSession | None = None
        self._exchange_with: Exchange | None = None
        self._slots = asyncio.Semaphore(config.max_in_flight)
        self.under_way = 0
        """Requests that wait for their answer, watches aside."""
        self._resources: dict[type, ResourceClient[Any]] = {}
        self.fence: Callable[[str], None] | None = None
        """Asked before each write, by its path; raises if we have no right to act any more."""

    async def __aenter__(self) -> Client:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def start(self) -> None:
        if self._session is None:
            # limit=0: each watch holds a connection; ordinary requests are bounded by _slots.
            connector = aiohttp.TCPConnector(limit=0, socket_factory=_keepalive_socket)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._exchange_with is not None:
            self._exchange_with.close()
            self._exchange_with = None

    def resource(self, kind: type[S]) -> ResourceClient[S]:
        """The client of a built-in kind, by its Struct: `client.resource(Pod)`."""
        from navarch.client.resource import ResourceClient, resource_path_of

        known = self._resources.get(kind)
        if known is None:
            known = ResourceClient(self, resource_path_of(kind), Codec(kind))
            self._resources[kind] = known
        return known

    def dynamic(
        self, group: str, version: str, plural: str, namespaced: bool = True
    ) -> ResourceClient[Object]:
        """The client of any resource, with plain dicts: `client.dynamic("example.com", "v1",
        "widgets")`. Subresources such as `deployments/scale` go through `get_subresource`."""
        from navarch.client.resource import ResourceClient, ResourcePath

        path = ResourcePath(group, version, plural, namespaced)
        return ResourceClient(self, path, Codec(dict[str, Any]))

    def metadata(
        self, group: str, version: str, plural: str, namespaced: bool = True
    ) -> ResourceClient[PartialObject]:
        """The client of any resource, reduced to metadata: cheap to list, watch and cache. Create
        and update are not for it; patch and delete are."""
        from navarch.client.resource import ResourceClient, ResourcePath

        path = ResourcePath(group, version, plural, namespaced)
        return ResourceClient(self, path, Codec(PartialObject))

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
    ) -> bytes:
        """One request, tried again as the server asks; the body of a 2xx answer.

        Raises `ApiError` for any other answer, `ApiConnectionError` for none."""
        reloaded = False
        attempt = 0
        while True:
            try:
                async with self._slots:
                    if self.fence is not None and method != "GET":
                        self.fence(path)
                    return await self._request_once(method, path, query, body, content_type)
            except ApiError as error:
                if error.status == 401 and not reloaded:
                    # The credentials may just have been rotated; ask once with the new ones.
                    reloaded = True
                    if self.credentials.refresh(force=True):
                        continue
                delay = retry_delay(error)
                if delay is None or attempt >= MAX_RETRIES:
                    raise
                attempt += 1
                await self.clock.sleep(delay)

    async def _request_once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        content_type: str,
    ) -> bytes:
        headers = {"Accept": JSON}
        if body is not None:
            headers["Content-Type"] = content_type
            if _PLAIN_PATH.fullmatch(path):
                return await self._exchanged(method, path, query, body, headers)
        limit = aiohttp.ClientTimeout(total=self.config.request_timeout)
        async with self._exchange(method, path, query, body, headers, limit) as response:
            try:
                return await response.read()
            except TimeoutError as error:
                raise _connection_error(self.config.server, error) from error

    async def _exchanged(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes,
        headers: dict[str, str],
    ) -> bytes:
        """A request with a body, past aiohttp's general machinery."""
        self._ready()
        if self._exchange_with is None:
            self._exchange_with = Exchange(
                self.config.server, self.config.tls_server_name, self.clock, _connected_socket
            )
        credentials = self.credentials
        every = {"Accept-Encoding": "identity", **credentials.headers, **headers}
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            async with asyncio.timeout(self.config.request_timeout):
                answer = await self._exchange_with(
                    method, target, every, body, credentials.ssl_context
                )
        except (TimeoutError, OSError) as error:
            requests_total.labels("<error>", self._host, method).inc()
            raise _connection_error(self.config.server, error) from error
        requests_total.labels(str(answer.status), self._host, method).inc()
        if answer.status >= 300:
            retry_after = answer.headers.get("retry-after", "")
            raise _error_of(answer.status, answer.body, "", retry_after)
        return answer.body

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, accept: str = "*/*"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request whose answer is read bit by bit (watches, followed logs), without a time
        limit. Connection failures while reading inside the block become `ApiConnectionError`."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=self.config.request_timeout)
        headers = {"Accept": accept}
        async with self._exchange(method, path, query, None, headers, limit) as response:
            yield response

    @asynccontextmanager
    async def websocket(
        self, path: str, *, query: Mapping[str, str] | None = None, protocols: tuple[str, ...]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket to a streaming subresource (exec, attach, port-forward). A path with a
        query string of repeated keys may be given whole in `path`."""
        session, tls = self._ready()
        try:
            async with session.ws_connect(
                self.url(path),
                params=query or None,
                protocols=protocols,
                headers=self.credentials.headers,
                ssl=tls,
                server_hostname=self.config.tls_server_name or None,
                max_msg_size=0,
            ) as websocket:
                yield websocket
        except aiohttp.WSServerHandshakeError as error:
            raise ApiError(error.status, "", error.message) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _connection_error(self.config.server, error) from error

    def url(self, path: str) -> str:
        """The full URL of an absolute path on the server."""
        return self.config.server + path

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        headers: dict[str, str],
        limit: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session, tls = self._ready()
        try:
            response = await session.request(
                method,
                self.url(path),
                params=query or None,
                data=body,
                headers={"Accept-Encoding": "identity", **self.credentials.headers, **headers},
                timeout=limit,
                ssl=tls,
                server_hostname=self.config.tls_server_name or None,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            requests_total.labels("<error>", self._host, method).inc()
            raise _connection_error(self.config.server, error) from error
        requests_total.labels(str(response.status), self._host, method).inc()
        async with response:
            # Only what aiohttp raises is the connection's fault here; the block may have troubles
            # of its own, such as a closed output pipe.
            try:
                if response.status >= 300:
                    raise await _answer_error(response)
                yield response
            except aiohttp.ClientError as error:
                raise _connection_error(self.config.server, error) from error

    def _ready(self) -> tuple[aiohttp.ClientSession, Any]:
        if self._session is None:
            raise RuntimeError("the client is not started; use `async with Client(...)`")
        self.credentials.refresh()
        # aiohttp takes True for "the default context", which a plain http server never asks for.
        return self._session, self.credentials.ssl_context or True


def retry_delay(error: ApiError) -> float | None:
    """How long the server asks to wait before the same request, None when it does not ask."""
    if error.status not in _RETRIED:
        return None
    text = error.headers.get("Retry-After", "")
    if not text.isdecimal():
        return None
    return min(float(text), MAX_RETRY_AFTER)


async def _answer_error(response: aiohttp.ClientResponse) -> ApiError:
    data = await response.read()
    retry_after = response.headers.get("Retry-After", "")
    return _error_of(response.status, data, response.reason or "", retry_after)


def _error_of(code: int, data: bytes, reason: str, retry_after: str) -> ApiError:
    try:
        status = msgspec.json.decode(data)
    except msgspec.DecodeError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        status.setdefault("code", code)
        error = ApiError.from_status(status)
    else:
        text = data.decode("utf-8", "replace").strip()[:1024]
        error = ApiError(code, "", text or reason or str(code))
    if retry_after:
        error.headers["Retry-After"] = retry_after
    return error


def _connection_error(server: str, error: BaseException) -> ApiConnectionError:
    what = str(error) or type(error).__name__
    return ApiConnectionError(f"no answer from {urlsplit(server).netloc}: {what}")


async def _connected_socket(host: str, port: int) -> socket.socket:
    """To the first address that answers."""
    loop = asyncio.get_running_loop()
    problem: OSError = OSError(f"no address for {host}")
    for address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        result = _keepalive_socket(address)
        result.setblocking(False)
        try:
            await loop.sock_connect(result, address[4])
        except OSError as error:
            problem = error
            result.close()
        except BaseException:
            result.close()
            raise
        else:
            return result
    raise problem


def _keepalive_socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    result = socket.socket(family, kind, protocol)
    result.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    result.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_PEER_SECONDS // 2)
    result.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_PEER_SECONDS // 6)
    result.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    result.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_SECONDS * 1000)
    return result

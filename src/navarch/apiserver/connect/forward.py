"""Passing a request on to a backend and its answer back: plain, streamed, or upgraded.

Redirects are never followed with the client's request in hand, credentials are never passed on, and
a connection is only ever turned into a byte pipe after the backend has said 101.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import CIMultiDict

from navarch.api.errors import ApiError, service_unavailable
from navarch.api.numbers import natural
from navarch.apiserver.connect.nodes import Backend
from navarch.apiserver.http.call import Call
from navarch.streaming import splice

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 10.0
CHUNK = 64 * 1024

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_NEVER_FORWARDED = frozenset(
    {"authorization", "host", "content-length", "x-remote-user", "x-remote-uid", "x-remote-group"}
)
_NEVER_PREFIXES = ("impersonate-", "x-remote-extra-")
"""Of headers: a backend that trusts our certificate would take the client's word for ours."""
_TOKEN_PROTOCOL = "base64url.bearer.authorization.k8s.io."


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether the client asks to change protocols."""
    connection = request.headers.get("Connection", "").lower()
    return "upgrade" in (each.strip() for each in connection.split(","))


def forwarded_headers(request: web.BaseRequest) -> CIMultiDict[str]:
    """The client's headers without its credentials and without those of this hop."""
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        lower = name.lower()
        if lower in HOP_BY_HOP or lower in _NEVER_FORWARDED or lower.startswith(_NEVER_PREFIXES):
            continue
        if lower == "sec-websocket-protocol":
            kept = [each for each in value.split(",") if _TOKEN_PROTOCOL not in each]
            value = ",".join(kept).strip()
            if not value:
                continue
        headers.add(name, value)
    peer = request.remote
    if peer:
        before = headers.get("X-Forwarded-For")
        headers["X-Forwarded-For"] = f"{before}, {peer}" if before else peer
    return headers


class UnreachableError(Exception):
    """No answer, and why."""


def failure_text(error: BaseException, backend: Backend) -> str:
    """Why a backend does not answer, as Go's `net` says it: people look for these words."""
    if isinstance(error, TimeoutError):
        return f"dial tcp {backend.authority}: i/o timeout"
    if not isinstance(error, OSError) or not error.errno or isinstance(error, ssl.SSLError):
        return str(error) or type(error).__name__
    reason = os.strerror(error.errno).lower()
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        return f"read tcp {backend.authority}: read: {reason}"
    return f"dial tcp {backend.authority}: connect: {reason}"


def unreachable(error: BaseException, backend: Backend) -> ApiError:
    """503 for a backend that does not answer."""
    return service_unavailable(f"error trying to reach service: {failure_text(error, backend)}")


async def upgrade(
    call: Call,
    backend: Backend,
    target: str,
    extra: Callable[[CIMultiDict[str]], None] | None = None,
) -> web.StreamResponse:
    """Ask the backend for the upgrade; pipe bytes if it says 101, else relay what it says. `extra`
    adds headers."""
    request = call.request
    headers = forwarded_headers(request)
    if extra is not None:
        extra(headers)
    headers["Host"] = backend.authority
    headers["Connection"] = "Upgrade"
    headers["Upgrade"] = request.headers.get("Upgrade", "")
    if request.headers.get("Content-Length"):
        headers["Content-Length"] = "0"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            upgraded = await splice.open_upgrade(
                (backend.host, backend.port, backend.server_name),
                request.method,
                target,
                headers,
                backend.tls,
            )
    except (OSError, TimeoutError, splice.UpgradeFailed) as error:
        text = f"error dialing backend: {failure_text(error, backend)}"
        raise ApiError(500, "", text) from error
    if upgraded.status != 101:
        return await _relay_refusal(call, upgraded, backend)
    if call.trail is not None:
        call.trail.started(101)
    client = splice.take_over(request)
    client.writer.write(splice.response_head(101, upgraded.reason, upgraded.headers))
    await splice.join(client, upgraded.connection)
    return splice.TakenOverResponse()


async def _relay_refusal(
    call: Call, upgraded: splice.Upgraded, backend: Backend
) -> web.StreamResponse:
    """An answer other than 101 is an ordinary response, and the end of both connections: what the
    client sends next must not reach the backend."""
    try:
        length = natural(upgraded.header("Content-Length"))
        size = min(length, 1 << 20) if length is not None else 1 << 16
        async with asyncio.timeout(CONNECT_SECONDS):
            body = await _read_up_to(upgraded.connection.reader, size)
    except (OSError, TimeoutError) as error:
        raise unreachable(error, backend) from error
    finally:
        upgraded.connection.close()
    headers = _answer_headers(upgraded.headers)
    headers["Audit-Id"] = call.audit_id
    if is_redirect(upgraded.status, headers):
        response = web.Response(status=502, text=REDIRECTED)
    else:
        response = web.Response(status=upgraded.status, body=body, headers=headers)
    response.force_close()
    return response


async def _read_up_to(reader: asyncio.StreamReader, size: int) -> bytes:
    chunks = []
    while size > 0:
        chunk = await reader.read(size)
        if not chunk:
            break
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _answer_headers(pairs: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    """A backend's headers without those of its hop; the length is that of what we send."""
    return CIMultiDict(
        (name, value)
        for name, value in pairs
        if name.lower() not in HOP_BY_HOP and name.lower() != "content-length"
    )


def is_redirect(status: int, headers: CIMultiDict[str]) -> bool:
    return 300 <= status <= 399 and bool(headers.get("Location"))


class Forwarder:
    """Plain requests to backends, over one connection pool."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                # What is passed on is mostly large: logs, archives, lists.
                read_bufsize=4 * CHUNK,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self, backend: Backend, method: str, target: str, headers: CIMultiDict[str], body: object
    ) -> aiohttp.ClientResponse:
        """Send a request; raises 503 when the backend cannot be reached."""
        try:
            return await self.send(backend, method, target, headers, body)
        except UnreachableError as error:
            raise unreachable(error, backend) from error

    async def send(
        self, backend: Backend, method: str, target: str, headers: CIMultiDict[str], body: object
    ) -> aiohttp.ClientResponse:
        """Send a request. Raises UnreachableError."""
        import aiohttp
        from yarl import URL

        url = URL(f"{backend.scheme}://{backend.authority}{target}", encoded=True)
        try:
            return await self.session().request(
                method,
                url,
                headers=headers,
                data=body,
                ssl=backend.tls if backend.tls is not None else True,
                server_hostname=backend.server_name or None,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # A ValueError is a header or URL that cannot be sent.
            raise UnreachableError(failure_text(error, backend)) from error

    async def forward(
        self,
        call: Call,
        backend: Backend,
        target: str,
        extra: Callable[[CIMultiDict[str]], None],
        rewrite: Rewrite | None = None,
    ) -> web.StreamResponse:
        """Pass a plain request on and stream the answer back. `extra` adds headers."""
        request = call.request
        headers = forwarded_headers(request)
        extra(headers)
        body = _body_of(request) if request.body_exists else None
        if request.content_length is not None and request.body_exists:
            headers["Content-Length"] = str(request.content_length)
        answer = await self.request(backend, request.method, target, headers, body)
        # A client that leaves ends the backend's answer too, however long that is silent.
        connection = call.connection
        connection.on_lost.add(answer.close)
        try:
            return await _stream_answer(call, answer, backend, rewrite)
        finally:
            connection.on_lost.discard(answer.close)
            answer.close()


REDIRECTED = "the backend attempted to redirect this request, which is not permitted"


class Rewrite:
    """How an answer is changed on its way; the base changes nothing."""

    refuses_redirects = False
    """The client would show its credentials to whomever the backend names."""

    def headers(self, headers: CIMultiDict[str]) -> None:
        """Change the answer's headers in place."""

    def wants_body(self, headers: CIMultiDict[str]) -> bool:
        """Whether the whole body is to be changed."""
        return False

    def body(self, headers: CIMultiDict[str], body: bytes) -> bytes:
        return body


async def _body_of(request: web.BaseRequest) -> AsyncIterator[bytes]:
    while chunk := await request.content.readany():
        yield chunk


async def _stream_answer(
    call: Call, answer: aiohttp.ClientResponse, backend: Backend, rewrite: Rewrite | None
) -> web.StreamResponse:
    import aiohttp

    headers = _answer_headers(answer.headers.items())
    headers["Audit-Id"] = call.audit_id
    if rewrite is not None:
        if rewrite.refuses_redirects and is_redirect(answer.status, headers):
            return web.Response(status=502, text=REDIRECTED)
        rewrite.headers(headers)
        if rewrite.wants_body(headers):
            try:
                body = rewrite.body(headers, await answer.read())
            except (aiohttp.ClientError, OSError) as error:
                raise unreachable(error, backend) from error
            return web.Response(status=answer.status, body=body, headers=headers)
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_length = natural(answer.headers.get("Content-Length", ""))
    if call.trail is not None:
        call.trail.started(answer.status)
    writer = await response.prepare(call.request)
    if writer is not None and hasattr(writer, "send_headers"):
        writer.send_headers()
    if call.request.method == "HEAD":
        return response
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientError, OSError) as error:
        # The status is out: only the end of the connection can tell that something is missing.
        raise ConnectionResetError(f"the backend broke off: {error}") from error
    await response.write_eof()
    return response

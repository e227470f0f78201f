"""The HTTPS client behind all webhooks: where they are, how they are trusted, what may go wrong.

A webhook is named by URL or by Service. A Service is dialled at one of its ready endpoints, chosen
anew for each connection: the API server runs outside of the nodes' networks, where nobody turns
cluster addresses into endpoints. The name that the certificate is checked for stays
`<service>.<namespace>.svc`. Redirects are never followed (CVE-2020-8561: a webhook could make the
server speak to addresses of its choice), and an answer has a largest size.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from navarch.api.errors import ApiError
from navarch.api.trust import trusting
from navarch.apiserver.aggregation.records import ServiceRef
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.webhooks.metrics import WebhookMetrics

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractResolver

Object = dict[str, Any]

MAX_ANSWER = 32 * 1024 * 1024
IDLE_SECONDS = 60.0
DEADLINE = "context deadline exceeded"


class CallFailed(Exception):
    """A webhook could not be asked, or its answer makes no sense. `status` is what metrics show."""

    def __init__(self, text: str, status: int = 503) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a webhook is. `ca_bundle` is base64 of PEM, as in the object; empty for the system's
    own roots."""

    url: str
    ca_bundle: str = ""
    service: ServiceRef | None = None

    @classmethod
    def of(cls, config: Object) -> Endpoint:
        """The endpoint in a `clientConfig`."""
        bundle = config.get("caBundle") or ""
        service = config.get("service")
        if not service:
            return cls(config.get("url") or "", bundle)
        ref = ServiceRef(service["namespace"], service["name"], service.get("port") or 443)
        path = (service.get("path") or "").strip("/")
        return cls(f"https://{ref.server_name}:{ref.port}/{path}", bundle, ref)


@lru_cache(256)
def trust(ca_bundle: str) -> ssl.SSLContext:
    """The TLS context for a bundle. Raises CallFailed."""
    try:
        return trusting(base64.b64decode(ca_bundle).decode("ascii").strip())
    except (ValueError, ssl.SSLError) as error:
        raise CallFailed(f"unable to load root certificates: {error}", 500) from error


class WebhookClient:
    """Posts documents to webhooks, over connections that are kept for the next time."""

    def __init__(self, lookup: Lookup) -> None:
        self.metrics = WebhookMetrics()
        self._lookup = lookup
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def post(self, endpoint: Endpoint, document: object, seconds: float) -> bytes:
        """The body of a webhook's answer to a document. Raises CallFailed."""
        url = f"{endpoint.url}?timeout={ceil(seconds)}s"
        context = trust(endpoint.ca_bundle)
        body = msgspec.json.encode(document)
        try:
            async with asyncio.timeout(seconds):
                return await self._post(endpoint, url, body, context)
        except (CallFailed, asyncio.CancelledError):
            raise
        except TimeoutError:
            raise CallFailed(f'Post "{url}": {DEADLINE}') from None
        except (OSError, ValueError, ApiError, _client_error()) as error:
            raise CallFailed(f'Post "{url}": {_go_text(error)}') from error

    async def _post(
        self, endpoint: Endpoint, url: str, body: bytes, context: ssl.SSLContext
    ) -> bytes:
        from aiohttp import ServerDisconnectedError
        from yarl import URL

        session = self._session(endpoint.service is not None)
        while True:
            seen = SimpleNamespace(is_reused=False)
            try:
                async with session.post(
                    URL(url, encoded=True),
                    data=body,
                    ssl=context,
                    allow_redirects=False,
                    trace_request_ctx=seen,
                ) as answer:
                    content = await _read(answer)
                    if not 200 <= answer.status <= 206:
                        raise _refusal(answer.status, content)
                    if not content:
                        raise CallFailed(
                            f"0-length response with status code: {answer.status} and content "
                            f"type: {answer.content_type}"
                        )
                    return content
            except (ServerDisconnectedError, ConnectionResetError):
                # The server gave up an idle connection just as we took it: try a fresh one.
                if not seen.is_reused:
                    raise

    def _session(self, is_service: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(is_service)
        if session is None:
            import aiohttp

            connector = aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=IDLE_SECONDS,
                use_dns_cache=False,
                resolver=_resolver(self._lookup) if is_service else None,
            )
            session = self._sessions[is_service] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={
                    "Content-Type": "application/json",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": "kube-apiserver-admission",
                },
                trace_configs=[_reuse_trace()],
            )
        return session


def _client_error() -> type[Exception]:
    import aiohttp

    return aiohttp.ClientError


def _reuse_trace() -> aiohttp.TraceConfig:
    import aiohttp

    async def reused(session: Any, context: Any, parameters: Any) -> None:
        context.trace_request_ctx.is_reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    return trace


def _resolver(lookup: Lookup) -> AbstractResolver:
    from aiohttp.abc import AbstractResolver, ResolveResult

    # Late, because proxying needs what is made of admission, and admission needs us.
    from navarch.apiserver.aggregation.extension import locate

    class Services(AbstractResolver):
        """Resolves `<service>.<namespace>.svc` to an endpoint's address and port."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            name, namespace, _ = host.split(".")
            address, number = locate(lookup, ServiceRef(namespace, name, port))
            if not address.replace(".", "").isdigit() and ":" not in address:
                loop = asyncio.get_running_loop()
                found = await loop.getaddrinfo(address, number, type=socket.SOCK_STREAM)
                address = str(found[0][4][0])
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return [
                ResolveResult(
                    hostname=host, host=address, port=number, family=family, proto=0, flags=0
                )
            ]

        async def close(self) -> None:
            return None

    return Services()


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER:
            answer.close()
            raise CallFailed(f"the response is larger than {MAX_ANSWER} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


_REFUSALS = {
    400: "the server rejected our request for an unknown reason",
    401: "the server has asked for the client to provide credentials",
    404: "the server could not find the requested resource",
    405: "the server does not allow this method on the requested resource",
    406: "the server was unable to respond with a content type that the client supports",
    409: "the server reported a conflict",
    415: "the server was unable to respond with a content type that the client supports",
    422: "the server rejected our request due to an error in our request",
    429: "the server has received too many requests and has asked us to try again later",
    503: "the server is currently unable to handle the request",
    504: (
        "the server was unable to return a response in the time allotted, but may still be "
        "processing the request"
    ),
}


def _refusal(status: int, content: bytes) -> CallFailed:
    """What a status other than success means, in the words of upstream's client."""
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        document = None
    if isinstance(document, dict) and document.get("kind") == "Status" and document.get("message"):
        return CallFailed(str(document["message"]), status)
    text = content[:2048].decode("utf-8", "replace").strip()
    if status in _REFUSALS:
        return CallFailed(_REFUSALS[status], status)
    if status == 403:
        return CallFailed(text or "Forbidden", status)
    if status >= 500:
        shown = msgspec.json.encode(text).decode()
        return CallFailed(
            f"an error on the server ({shown}) has prevented the request from succeeding", status
        )
    return CallFailed(
        f"the server responded with the status code {status} but did not return more information",
        status,
    )


def _go_text(error: BaseException) -> str:
    """An error as Go's HTTP client would put it: people and tests look for these words."""
    import aiohttp

    certificate = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        certificate = error.certificate_error
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {_x509(certificate)}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return f"tls: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
        words = {111: "connection refused", 113: "no route to host", 101: "network is unreachable"}
        text = words.get(inner.errno or 0, inner.strerror or str(inner))
        return f"dial tcp {error.host}:{error.port}: connect: {text}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    if isinstance(error, ConnectionResetError | aiohttp.ClientOSError):
        return "read: connection reset by peer"
    return str(error) or type(error).__name__


def _x509(error: ssl.SSLCertVerificationError) -> str:
    message = error.verify_message
    if "self-signed" in message or "self signed" in message or "unable to get" in message:
        return "certificate signed by unknown authority"
    if "expired" in message:
        return "certificate has expired or is not yet valid"
    return message

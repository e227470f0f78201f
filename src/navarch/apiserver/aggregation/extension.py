"""How the aggregator reaches an extension API server, and as whom.

TLS both ways: the server proves that it is `<service>.<namespace>.svc` by the APIService's CA
bundle; we prove with the front-proxy client certificate that what the `X-Remote-*` headers say of
the user is true. A client's own headers of that name never get through.
"""

from __future__ import annotations

import asyncio
import base64
import random
import ssl
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from multidict import CIMultiDict

from navarch.api.errors import ApiError, service_unavailable
from navarch.api.trust import trusting
from navarch.apiserver.aggregation.records import Record, ServiceRef
from navarch.apiserver.connect.forward import Forwarder, unreachable
from navarch.apiserver.connect.nodes import Backend
from navarch.apiserver.contracts import Lookup, UserInfo
from navarch.apiserver.http.answer import read_answer
from navarch.apiserver.options import ServerOptions

Object = dict[str, Any]

SLICES = "endpointslices.discovery.k8s.io"
FETCH_SECONDS = 5.0
MAX_DOCUMENT = 32 * 1024 * 1024
AGGREGATOR = UserInfo("system:kube-aggregator", groups=("system:masters",))
_TOKEN = frozenset("!#$&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_REMOTE = ("x-remote-user", "x-remote-uid", "x-remote-group")


def set_user(headers: CIMultiDict[str], user: UserInfo) -> None:
    """Say who makes the request, in place of whatever the client said there."""
    for name in list(headers):
        lower = name.lower()
        if lower in _REMOTE or lower.startswith("x-remote-extra-"):
            headers.popall(name, None)
    pairs = [("X-Remote-User", user.name)]
    if user.uid:
        pairs.append(("X-Remote-Uid", user.uid))
    pairs += [("X-Remote-Group", group) for group in user.groups]
    for key, values in user.extra.items():
        pairs += [(f"X-Remote-Extra-{_escape(key)}", value) for value in values]
    for name, value in pairs:
        if not value.replace("\t", " ").isprintable():
            raise service_unavailable("the user's attributes cannot be said in HTTP headers")
        headers.add(name, value)


def _escape(key: str) -> str:
    """A key as part of a header's name: what may not stand there is percent-encoded."""
    return "".join(
        chr(byte) if chr(byte) in _TOKEN else f"%{byte:02X}" for byte in key.encode("utf-8")
    )


def slices_of(lookup: Lookup, ref: ServiceRef) -> list[Object]:
    """The EndpointSlices of a Service."""
    return [
        each
        for each in lookup.list(SLICES, ref.namespace)
        if (each["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == ref.name
    ]


def service_port(service: Object, port: int) -> Object | None:
    ports = (service.get("spec") or {}).get("ports") or ()
    return next((each for each in ports if each.get("port") == port), None)


def locate(lookup: Lookup, ref: ServiceRef) -> tuple[str, int]:
    """Address and port of a ready endpoint of the Service. Raises 503."""
    service = lookup.get("services", ref.namespace, ref.name)
    if service is None:
        raise service_unavailable(f'service "{ref.name}" not found')
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return spec.get("externalName", ""), ref.port
    port = service_port(service, ref.port)
    if port is None:
        raise service_unavailable(f'no service port {ref.port} found for service "{ref.name}"')
    families = spec.get("ipFamilies") or ()
    best: list[tuple[str, int]] = []
    other: list[tuple[str, int]] = []
    for each in slices_of(lookup, ref):
        number = _slice_port(each, port.get("name") or "")
        found = other if families and each.get("addressType") != families[0] else best
        for endpoint in each.get("endpoints") or () if number else ():
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                found.append((str(endpoint["addresses"][0]), number))
    if not best and not other:
        raise service_unavailable(f'no endpoints available for service "{ref.name}"')
    return random.choice(best or other)


def _slice_port(endpoint_slice: Object, name: str) -> int:
    ports = endpoint_slice.get("ports") or ()
    return next((int(each["port"]) for each in ports if _is_named(each, name)), 0)


def _is_named(port: Object, name: str) -> bool:
    return (port.get("name") or "") == name and bool(port.get("port"))


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer of an extension server to a question of our own."""

    status: int
    content_type: str
    etag: str
    body: bytes


class Extensions:
    """Finds extension servers and speaks to them."""

    def __init__(self, options: ServerOptions, lookup: Lookup, forwarder: Forwarder) -> None:
        self._options = options
        self._lookup = lookup
        self.forwarder = forwarder
        self._contexts = lru_cache(256)(self._make_context)

    def forget_tls(self) -> None:
        """Our certificate was renewed: new connections show the new one."""
        self._contexts.cache_clear()

    def _make_context(self, ca_bundle: str, is_unverified: bool) -> ssl.SSLContext:
        options = self._options
        context = trusting("" if is_unverified else base64.b64decode(ca_bundle).decode("ascii"))
        if is_unverified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if options.proxy_client_cert_file is not None:
            context.load_cert_chain(options.proxy_client_cert_file, options.proxy_client_key_file)
        return context

    def backend(self, record: Record) -> Backend:
        """Where the record's server is now. Raises 503 when nowhere, 500 for a bad CA bundle."""
        assert record.service is not None
        host, port = locate(self._lookup, record.service)
        try:
            context = self._contexts(record.ca_bundle, record.is_unverified)
        except (ValueError, ssl.SSLError) as error:
            raise ApiError(
                500, "InternalError", f"unable to load root certificates: {error}"
            ) from (error)
        return Backend("https", host, port, context, record.service.server_name)

    async def fetch(
        self, record: Record, path: str, accept: str = "application/json", etag: str = ""
    ) -> Fetched:
        """Ask the server something as the aggregator itself. Raises 503."""
        import aiohttp

        headers = CIMultiDict({"Accept": accept})
        if etag:
            headers["If-None-Match"] = etag
        set_user(headers, AGGREGATOR)
        backend = self.backend(record)
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                answer = await self.forwarder.request(backend, "GET", path, headers, None)
                try:
                    body = await read_answer(answer.content, MAX_DOCUMENT)
                finally:
                    answer.close()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise unreachable(error, backend) from error
        if len(body) > MAX_DOCUMENT:
            raise service_unavailable(f"the document {path} is too large")
        kind = answer.headers.get("Content-Type", "")
        return Fetched(answer.status, kind, answer.headers.get("ETag", ""), body)

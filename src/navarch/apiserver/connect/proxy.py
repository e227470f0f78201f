"""`/proxy` of pods, services and nodes: the API server as a way into the cluster's network."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDict

from navarch.api.errors import bad_request, not_found, service_unavailable
from navarch.api.numbers import natural
from navarch.apiserver.connect.forward import Forwarder, Rewrite, is_upgrade, upgrade
from navarch.apiserver.connect.nodes import Backend, Kubelets, check_address, unverified_tls
from navarch.apiserver.core import Core
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.respond import base_headers
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.resource import Resource

Object = dict[str, Any]

HTML_LIMIT = 16 * 1024 * 1024


def split_proxy_name(text: str) -> tuple[str, str, str]:
    """Scheme, name and port of `[scheme:]name[:port]`. Raises 400."""
    parts = text.split(":")
    if len(parts) == 1:
        scheme, name, port = "", parts[0], ""
    elif len(parts) == 2:
        scheme, name, port = "", *parts
    elif len(parts) == 3:
        scheme, name, port = parts
    else:
        raise bad_request(f'invalid proxy request "{text}"')
    if scheme not in ("", "http", "https") or not name:
        raise bad_request(f'invalid proxy request "{text}"')
    return scheme or "http", name, port


class Proxy:
    """The proxy handlers of the three kinds."""

    def __init__(self, kubelets: Kubelets, forwarder: Forwarder) -> None:
        self.kubelets = kubelets
        self.forwarder = forwarder
        self._tls = unverified_tls()

    def add_to(self, app: App) -> None:
        for owner, locate in (
            ("pods", self._pod),
            ("services", self._service),
            ("nodes", self._node),
        ):
            app.subresources[owner, "proxy", "*"] = self._handler(locate)

    def _handler(self, locate: Callable[[Core, Call], Backend]) -> Any:
        async def handle(core: Core, call: Call, resource: Resource) -> web.StreamResponse:
            kind = f"{resource.kind.kind}ProxyOptions"
            obj = {"kind": kind, "apiVersion": "v1", "path": f"/{call.target.rest or ''}"}
            context = WriteContext(
                info=call.info, user=call.user, warnings=call.warnings, trail=call.trail
            )
            request = core.registry.admission(resource, "CONNECT", obj, None, context, kind)
            await core.registry.admit(request)
            backend = locate(core, call)
            return await self._pass_on(call, backend)

        return handle

    async def _pass_on(self, call: Call, backend: Backend) -> web.StreamResponse:
        request = call.request
        path, separator, query = request.raw_path.partition("?")
        tail = separator + query
        if call.target.rest is None and request.method in ("GET", "HEAD"):
            headers = base_headers(call)
            headers["Location"] = f"{path}/{tail}"
            return web.Response(status=301, headers=headers)
        rest = call.target.rest or ""
        target = f"/{rest}{tail}"
        if is_upgrade(request):
            return await upgrade(call, backend, target)
        prefix = path[: len(path) - len(rest)].rstrip("/") if rest else path.rstrip("/")

        def extra(headers: CIMultiDict[str]) -> None:
            headers["X-Forwarded-Uri"] = f"{prefix}/{rest}"
            headers["X-Forwarded-Host"] = request.headers.get("Host", "")
            headers["X-Forwarded-Proto"] = "https" if request.secure else "http"

        rewrite = ProxyRewrite(prefix, backend)
        return await self.forwarder.forward(call, backend, target, extra, rewrite)

    # ---- where to

    def _backend(self, scheme: str, host: str, port: int) -> Backend:
        check_address(host)
        return Backend(scheme, host, port, self._tls if scheme == "https" else None)

    def _pod(self, core: Core, call: Call) -> Backend:
        scheme, name, port = split_proxy_name(call.info.name)
        pod = core.lookup.get("pods", call.info.namespace, name)
        if pod is None:
            raise not_found("pods", "", name)
        status = pod.get("status") or {}
        addresses = status.get("podIPs") or ()
        host = addresses[0].get("ip", "") if addresses else status.get("podIP") or ""
        if not port:
            port = next(
                (
                    str(each["ports"][0]["containerPort"])
                    for each in pod["spec"].get("containers") or ()
                    if each.get("ports")
                ),
                "443" if scheme == "https" else "80",
            )
        return self._backend(scheme, host, _port_number(port, call.info.name))

    def _service(self, core: Core, call: Call) -> Backend:
        scheme, name, port = split_proxy_name(call.info.name)
        namespace = call.info.namespace
        service = core.lookup.get("services", namespace, name)
        if service is None:
            raise not_found("services", "", name)
        ports = (service.get("spec") or {}).get("ports") or []
        if (number := natural(port)) is not None:
            named = [each for each in ports if each.get("port") == number]
            if not named:
                raise service_unavailable(f'no service port {port} found for service "{name}"')
            port = named[0].get("name") or ""
        found = self._endpoints(core, namespace, name, port)
        if not found:
            raise service_unavailable(f'no endpoints available for service "{call.info.name}"')
        return self._backend(scheme, *random.choice(found))

    @staticmethod
    def _endpoints(core: Core, namespace: str, name: str, port: str) -> list[tuple[str, int]]:
        """Addresses and ports of the ready endpoints that serve the named port."""
        found = []
        for each in core.lookup.list("endpointslices.discovery.k8s.io", namespace):
            labels = each["metadata"].get("labels") or {}
            if labels.get("kubernetes.io/service-name") != name:
                continue
            numbers = [
                row["port"]
                for row in each.get("ports") or ()
                if (row.get("name") or "") == port and row.get("port")
            ]
            for endpoint in each.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is False:
                    continue
                addresses = endpoint.get("addresses") or ()
                found += [(address, number) for address in addresses for number in numbers]
        return found

    def _node(self, core: Core, call: Call) -> Backend:
        scheme, name, port = split_proxy_name(call.info.name)
        kubelet = self.kubelets.backend(name)
        check_address(kubelet.host)
        if not port or port == str(kubelet.port):
            return kubelet
        return self._backend(scheme, kubelet.host, _port_number(port, call.info.name))


def _port_number(text: str, name: str) -> int:
    number = natural(text) or 0
    if not 0 < number < 65536:
        raise bad_request(f'invalid proxy request "{name}"')
    return number


_LINKS = re.compile(
    rb"""(<[a-zA-Z][^<>]*?\s(?:href|src|action|formaction|background|cite|codebase|data|icon|"""
    rb"""longdesc|manifest|poster|profile|usemap|classid)\s*=\s*)("[^"]*"|'[^']*'|/[^\s<>"']*)"""
)


class ProxyRewrite(Rewrite):
    """Keeps links and redirects of a proxied page behind the proxy."""

    def __init__(self, prefix: str, backend: Backend) -> None:
        self.prefix = prefix
        self.backend = backend

    def url(self, text: str) -> str:
        """A link as the browser must see it: absolute paths and the backend's own URLs move below
        the proxy's path, others stay."""
        parts = urlsplit(text)
        is_own = parts.netloc in ("", self.backend.authority, self.backend.host)
        if not is_own or parts.scheme not in ("", "http", "https"):
            return text
        if not parts.netloc and not parts.path.startswith("/"):
            return text
        if parts.path.startswith(self.prefix + "/"):
            return text
        query = f"?{parts.query}" if parts.query else ""
        fragment = f"#{parts.fragment}" if parts.fragment else ""
        return f"{self.prefix}{parts.path or '/'}{query}{fragment}"

    def headers(self, headers: CIMultiDict[str]) -> None:
        location = headers.get("Location")
        if location:
            headers["Location"] = self.url(location)

    def wants_body(self, headers: CIMultiDict[str]) -> bool:
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        encoding = headers.get("Content-Encoding", "").lower()
        return kind == "text/html" and encoding in ("", "identity", "gzip")

    def body(self, headers: CIMultiDict[str], body: bytes) -> bytes:
        if headers.get("Content-Encoding", "").lower() == "gzip":
            import zlib

            engine = zlib.decompressobj(31)
            body = engine.decompress(body, HTML_LIMIT)
            del headers["Content-Encoding"]
        return _LINKS.sub(self._link, body)

    def _link(self, match: re.Match[bytes]) -> bytes:
        quoted = match[2]
        mark = quoted[:1] if quoted[:1] in (b'"', b"'") else b""
        text = quoted[1:-1] if mark else quoted
        changed = self.url(text.decode("utf-8", "surrogateescape"))
        return match[1] + mark + changed.encode("utf-8", "surrogateescape") + mark

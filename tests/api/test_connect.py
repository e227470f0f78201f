"""What the API server passes on: logs, upgrades and proxied requests, against a backend of ours."""

from __future__ import annotations

import asyncio
import base64
import errno
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.api.conftest import Api
from tests.api.test_deletion import PODS, pod

from navarch.api.errors import ApiError
from navarch.apiserver.authentication.front_proxy import RequestHeaders
from navarch.apiserver.connect.forward import failure_text
from navarch.apiserver.connect.nodes import Backend as Target
from navarch.apiserver.connect.nodes import check_address

Object = dict[str, Any]
LOG = "line 1\nline 2\n"


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def server_tls(directory: Path) -> ssl.SSLContext:
    """A self-signed certificate for loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubelet")])
    now = datetime.now(UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "kubelet.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


class Backend:
    """Stands for a kubelet and for a pod's server: tells what it was asked."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.refuses_upgrade = False

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        if request.path.startswith("/containerLogs"):
            if request.path.endswith("/bad"):
                return web.Response(status=400, text='container "bad" is waiting to start')
            return web.Response(text=LOG)
        if "upgrade" in request.headers.get("Connection", "").lower():
            if self.refuses_upgrade:
                return web.Response(status=400, text="no")
            socket = web.WebSocketResponse(protocols=("echo",))
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data.upper())
            return socket
        if request.path == "/page":
            text = '<a href="/next">x</a><a href="rel">y</a><img src=\'/i.png\'>'
            return web.Response(text=text, content_type="text/html")
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/page?x=1"})
        body = await request.read()
        return web.json_response(
            {
                "method": request.method,
                "path": request.raw_path,
                "body": body.decode(),
                "headers": dict(request.headers),
            }
        )


@asynccontextmanager
async def serving(backend: Backend, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    runner = web.ServerRunner(web.Server(backend.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    assert site._server is not None
    try:
        yield site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    finally:
        await runner.cleanup()


@pytest.fixture
async def kubelet(api: Api, tmp_path: Path) -> AsyncIterator[Backend]:
    """A node whose kubelet is ours, with the pod `p` on it."""
    backend = Backend()
    async with serving(backend, server_tls(tmp_path)) as port:
        await make_node(api, port)
        await place_pod(api, "p", containers=[{"name": "c", "image": "i"}])
        yield backend


async def make_node(api: Api, port: int) -> None:
    (await api.post("/api/v1/nodes", {"metadata": {"name": "n1"}})).ok(201)
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    (await api.patch("/api/v1/nodes/n1/status", {"status": status})).ok()


async def place_pod(api: Api, name: str, **spec: Any) -> None:
    (await api.post(PODS, pod(name, **spec))).ok(201)
    binding = {"metadata": {"name": name}, "target": {"name": "n1"}}
    (await api.post(f"{PODS}/{name}/binding", binding)).ok(201)


async def test_logs(api: Api, kubelet: Backend) -> None:
    answer = await api.get(f"{PODS}/p/log?follow=true&tailLines=5&container=c")
    assert (answer.status, answer.body) == (200, b"line 1\nline 2\n")
    assert answer.headers["Content-Type"] == "text/plain"
    asked = kubelet.requests[-1]
    assert asked.path == "/containerLogs/default/p/c"
    assert dict(asked.query) == {"follow": "true", "tailLines": "5"}


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("container=zz", 400, "container zz is not valid for pod p"),
        ("tailLines=-1", 422, "must be greater than or equal to 0"),
        ("limitBytes=0", 422, "must be greater than 0"),
        ("stream=Stdout&tailLines=1", 422, "`tailLines` and specific `stream` are mutually excl"),
        ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422, "at most one of"),
    ],
)
async def test_bad_log_requests(
    api: Api, kubelet: Backend, query: str, status: int, text: str
) -> None:
    answer = await api.get(f"{PODS}/p/log?{query}")
    assert (answer.status, text in answer.json["message"]) == (status, True)
    assert not kubelet.requests


async def test_the_kubelets_complaint_reaches_the_client(api: Api, kubelet: Backend) -> None:
    await place_pod(api, "q", containers=[{"name": "bad", "image": "i"}])
    answer = await api.get(f"{PODS}/q/log")
    assert (answer.status, answer.json["message"]) == (400, 'container "bad" is waiting to start')


@pytest.mark.conformance(
    "Pods should support retrieving logs from the container over websockets [NodeConformance]"
)
@pytest.mark.parametrize(
    ("protocol", "expected"),
    [("binary.k8s.io", [b"", LOG.encode()]), ("base64.binary.k8s.io", ["", base64_of(LOG)])],
)
async def test_logs_as_messages(
    api: Api, kubelet: Backend, protocol: str, expected: list[object]
) -> None:
    url = f"{api.server.url}{PODS}/p/log?container=c"
    async with api.session.ws_connect(url, protocols=(protocol,)) as socket:
        assert socket.protocol == protocol
        assert [message.data async for message in socket] == expected
        assert socket.close_code == 1000


async def test_logs_in_an_unknown_protocol(api: Api, kubelet: Backend) -> None:
    url = f"{api.server.url}{PODS}/p/log?container=c"
    with pytest.raises(WSServerHandshakeError) as refused:
        await api.session.ws_connect(url, protocols=("other.example",))
    assert refused.value.status == 400


async def test_logs_of_a_pod_without_a_node(api: Api) -> None:
    (await api.post(PODS, pod("p"))).ok(201)
    assert (await api.get(f"{PODS}/p/log")).status == 204
    refused = await api.get(f"{PODS}/p/exec?command=ls")
    assert (refused.status, "does not have a host" in refused.json["message"]) == (400, True)


@pytest.mark.parametrize("path", ["p/log", "p/exec?command=ls", "p/attach", "p/portforward"])
async def test_simulated_nodes_are_not_asked(api: Api, kubelet: Backend, path: str) -> None:
    """Their addresses are nobody's: whoever answers there is a stranger."""
    await _be_simulated(api)
    refused = await api.get(f"{PODS}/{path}")
    assert (refused.status, kubelet.requests) == (400, [])
    assert refused.json["message"].startswith("node n1 is simulated")


async def test_pods_there_print_what_they_are_told_to(api: Api, kubelet: Backend) -> None:
    await _be_simulated(api)
    patch = {"metadata": {"annotations": {"simulated.navarch.dev/logs": "hello"}}}
    (await api.patch(f"{PODS}/p", patch)).ok()
    answer = await api.get(f"{PODS}/p/log")
    assert (answer.status, answer.body, kubelet.requests) == (200, b"hello\n", [])


async def test_simulated_nodes_are_not_proxied_to(api: Api, kubelet: Backend) -> None:
    await _be_simulated(api)
    refused = await api.get("/api/v1/nodes/n1/proxy/pods")
    assert (refused.status, "is simulated" in refused.json["message"]) == (400, True)


async def _be_simulated(api: Api) -> None:
    status = {"nodeInfo": {"containerRuntimeVersion": "simulated://1"}}
    (await api.patch("/api/v1/nodes/n1/status", {"status": status})).ok()


async def test_an_upgraded_connection_is_passed_through(api: Api, kubelet: Backend) -> None:
    url = f"{api.server.url}{PODS}/p/exec?command=ls&command=-l&stdout=1&stderr=1&container=c"
    protocols = ("echo", "base64url.bearer.authorization.k8s.io.c2VjcmV0")
    async with api.session.ws_connect(url, protocols=protocols) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=60) == "HELLO"
    asked = kubelet.requests[-1]
    assert asked.path == "/exec/default/p/c"
    assert asked.query.getall("command") == ["ls", "-l"]
    assert (asked.query["output"], asked.query["error"], "input" in asked.query) == (
        "1",
        "1",
        False,
    )
    assert "c2VjcmV0" not in asked.headers["Sec-WebSocket-Protocol"]
    await asyncio.wait_for(_until_idle(api), 60)


async def _until_idle(api: Api) -> None:
    while api.server.core.gauges["connect"]:  # noqa: ASYNC110 - a plain counter tells nobody
        await asyncio.sleep(0)


async def test_a_refused_upgrade_ends_the_connection(api: Api, kubelet: Backend) -> None:
    kubelet.refuses_upgrade = True
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    head = (
        f"POST {PODS}/p/portforward HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        "Upgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n"
    )
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    assert answer.startswith(b"HTTP/1.1 400")
    writer.write(b"GET /pods HTTP/1.1\r\nHost: x\r\n\r\n")
    rest = await asyncio.wait_for(reader.read(), 60)
    assert rest == b"no"
    assert len(kubelet.requests) == 1
    writer.close()


async def test_a_dead_kubelet_is_told_of_in_upstreams_words(api: Api) -> None:
    """By exec and by logs; kubectl prints them as they are."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    await make_node(api, port)
    await place_pod(api, "p", containers=[{"name": "c", "image": "i"}])
    why = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    address = f"https://127.0.0.1:{port}/containerLogs/default/p/c"
    upgrade = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    for path, headers, wanted in (
        (f"{PODS}/p/exec?command=ls", upgrade, f"error dialing backend: {why}"),
        (f"{PODS}/p/log", {}, f'Get "{address}": {why}'),
    ):
        answer = await api.get(path, headers=headers)
        assert (answer.status, answer.json["message"]) == (500, wanted)
        assert "reason" not in answer.json


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EHOSTUNREACH, "x"), "dial tcp [fd00::1]:80: connect: no route to host"),
        (OSError(errno.ECONNRESET, "x"), "read tcp [fd00::1]:80: read: connection reset by peer"),
        (TimeoutError(), "dial tcp [fd00::1]:80: i/o timeout"),
        (ssl.SSLError(1, "wrong version number"), "wrong version number"),
        (ValueError(), "ValueError"),
    ],
)
def test_why_a_backend_does_not_answer(error: Exception, text: str) -> None:
    assert text in failure_text(error, Target("http", "fd00::1", 80))


async def test_exec_without_upgrade_is_refused(api: Api, kubelet: Backend) -> None:
    answer = await api.post(f"{PODS}/p/exec?command=ls&container=c", b"")
    assert (answer.status, answer.json["message"]) == (400, "Upgrade request required")
    assert not kubelet.requests


@pytest.fixture
async def proxied(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backend]:
    """A pod with an address of ours: loopback, which is allowed for these tests alone."""
    monkeypatch.setattr("navarch.apiserver.connect.proxy.check_address", lambda host: None)
    backend = Backend()
    async with serving(backend, None) as port:
        await place_pod(
            api, "p", containers=[{"name": "c", "image": "i", "ports": [{"containerPort": port}]}]
        )
        status = {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}], "phase": "Running"}
        (await api.patch(f"{PODS}/p/status", {"status": status})).ok()
        yield backend


async def test_proxied_requests_arrive_whole(api: Api, proxied: Backend) -> None:
    answer = await api.put(
        f"{PODS}/p/proxy/a%2Fb//c?q=1", b"data", headers={"Authorization": "Bearer x", "X-A": "1"}
    )
    seen = answer.ok(200)
    assert (seen["method"], seen["path"], seen["body"]) == ("PUT", "/a%2Fb//c?q=1", "data")
    assert seen["headers"]["X-A"] == "1"
    assert "Authorization" not in seen["headers"]
    prefix = f"{PODS}/p/proxy"
    assert seen["headers"]["X-Forwarded-Uri"] == f"{prefix}/a%2Fb//c"
    moved = await api.get(f"{PODS}/p/proxy?x=1")
    assert (moved.status, moved.headers["Location"]) == (301, f"{prefix}/?x=1")
    assert (await api.post(f"{PODS}/p/proxy", b"")).ok()["path"] == "/"


SMUGGLED = {
    "X-Remote-User": "root",
    "x-remote-group": "system:masters",
    "X-Remote-Extra-Scopes": "all",
    "X-Remote-Uid": "0",
    "Impersonate-User": "system:anonymous",
}


@pytest.mark.parametrize("own", [False, True])
async def test_headers_that_name_users_are_not_passed_on(
    api: Api, proxied: Backend, own: bool
) -> None:
    """Whoever is behind us may believe them, as it comes from us; whatever they are called."""
    sent = dict(SMUGGLED)
    if own:
        app = api.server.app
        app._proxy_headers = RequestHeaders(("X-Own-User",), extra_prefix=("X-Own-Extra-",))
        sent |= {"X-Own-User": "root", "x-own-extra-a": "b", "X-Own": "stays"}
    answer = await api.post(f"{PODS}/p/proxy/x", b"data", headers=sent)
    seen = answer.ok(200)
    assert seen["body"] == "data"
    names = {name.lower() for name in seen["headers"]}
    assert not {name.lower() for name in sent} - {"x-own"} & names
    assert ("x-own" in names) is own


async def test_links_and_redirects_stay_behind_the_proxy(api: Api, proxied: Backend) -> None:
    prefix = f"{PODS}/p/proxy"
    page = await api.get(f"{prefix}/page")
    assert page.body.decode() == (
        f'<a href="{prefix}/next">x</a><a href="rel">y</a><img src=\'{prefix}/i.png\'>'
    )
    moved = await api.get(f"{prefix}/moved")
    assert (moved.status, moved.headers["Location"]) == (302, f"{prefix}/page?x=1")


async def test_services_are_proxied_to_ready_endpoints(api: Api, proxied: Backend) -> None:
    found = (await api.get(f"{PODS}/p")).ok()
    port = found["spec"]["containers"][0]["ports"][0]["containerPort"]
    services = "/api/v1/namespaces/default/services"
    spec = {"ports": [{"name": "web", "port": 80, "targetPort": port}]}
    (await api.post(services, {"metadata": {"name": "s"}, "spec": spec})).ok(201)
    none = await api.get(f"{services}/s:web/proxy/x")
    assert (none.status, none.json["reason"]) == (503, "ServiceUnavailable")
    endpoints = {
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.1.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "web", "port": port}],
    }
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    (await api.post(slices, endpoints)).ok(201)
    resource = api.server.core.catalog.get("discovery.k8s.io", "v1", "endpointslices")

    def move(obj: Object) -> None:
        obj["endpoints"][0]["addresses"] = ["127.0.0.1"]

    await api.server.core.registry.modify(resource, ("default", "s-1"), move)
    for name in ("s:web", "http:s:web", "s:80"):
        assert (await api.get(f"{services}/{name}/proxy/x")).ok()["path"] == "/x"


async def test_addresses_that_must_not_be_reached(api: Api) -> None:
    (await api.post(PODS, pod("p"))).ok(201)
    forbidden = ["127.0.0.1", "127.8.8.8", "169.254.169.254", "0.0.0.0", "::1", "fe80::1"]
    for address in forbidden:
        status = {"podIP": address, "podIPs": [{"ip": address}]}
        (await api.patch(f"{PODS}/p/status", {"status": status})).ok()
        answer = await api.get(f"{PODS}/p:80/proxy/")
        assert (answer.status, answer.json["message"]) == (400, "address not allowed")


@pytest.mark.parametrize(
    "host", ["::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "localhost", "ff02::1"]
)
def test_no_other_spelling_of_an_address_gets_through(host: str) -> None:
    """Nor a name, whose address could change between two look-ups (CVE-2020-8562)."""
    with pytest.raises(ApiError, match="address not allowed"):
        check_address(host)

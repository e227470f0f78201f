"""The client and informers over real sockets, against a small server that misbehaves on command."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from navarch.api.errors import ApiError, conflict, gone, not_found
from navarch.api.types.apps_v1 import Deployment
from navarch.api.types.core_v1 import ConfigMap, Namespace, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import ApiConnectionError, Client, ClientConfig, InformerFactory, PatchType
from navarch.client.config import Pem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server that gives every request to `handler`; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def answer_error(error: ApiError) -> web.Response:
    return web.json_response(error.to_status(), status=error.status, headers=error.headers)


def config_map(name: str, revision: int, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": f"uid-{name}",
            "resourceVersion": str(revision),
            "managedFields": [{"manager": "test"}],
        },
        "data": data,
    }


async def test_every_verb_sends_what_the_api_expects() -> None:
    seen: list[tuple[str, str, str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        body = await request.read()
        kind = request.headers.get("Content-Type", "").removeprefix("application/")
        seen.append((request.method, request.path_qs, kind, json.loads(body) if body else None))
        return web.json_response({"metadata": {"name": "x"}})

    async with serving(handler) as url, Client(ClientConfig(url, user_agent="me")) as client:
        pods, spaces = client.resource(Pod), client.resource(Namespace)
        deployments = client.resource(Deployment)
        await pods.get("p", "ns", resource_version="5")
        await spaces.get("system:odd name")
        await pods.list(label_selector="a in (b,c)", limit=5, continue_="tok/en=")
        await pods.create(Pod(metadata=ObjectMeta(generateName="p-", namespace="ns")))
        await deployments.update_status(Deployment(metadata=ObjectMeta(name="d", namespace="ns")))
        await deployments.patch(
            "d", "ns", [{"op": "test", "path": "/x", "value": 1}], patch_type=PatchType.JSON
        )
        await deployments.patch(
            "d",
            "ns",
            Deployment(metadata=ObjectMeta(name="d")),
            patch_type=PatchType.APPLY,
            field_manager="m",
            force=True,
            subresource="status",
        )
        await pods.delete("p", "ns", uid="u", propagation="Foreground", grace_period=0)
        await pods.delete_collection("ns", label_selector="a=b")
        await pods.post_subresource("p", "ns", "binding", {"target": {"name": "n"}})
        await client.dynamic("x.io", "v1", "things", namespaced=False).get("t")
    pod_meta = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "p-", "namespace": "ns"},
    }
    options = {"kind": "DeleteOptions", "apiVersion": "v1"}
    assert [(method, path, kind) for method, path, kind, _ in seen] == [
        ("GET", "/api/v1/namespaces/ns/pods/p?resourceVersion=5", ""),
        ("GET", "/api/v1/namespaces/system:odd%20name", ""),
        ("GET", "/api/v1/pods?labelSelector=a+in+(b,c)&limit=5&continue=tok/en%3D", ""),
        ("POST", "/api/v1/namespaces/ns/pods", "json"),
        ("PUT", "/apis/apps/v1/namespaces/ns/deployments/d/status", "json"),
        ("PATCH", "/apis/apps/v1/namespaces/ns/deployments/d", "json-patch+json"),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/ns/deployments/d/status?fieldManager=m&force=true",
            "apply-patch+yaml",
        ),
        ("DELETE", "/api/v1/namespaces/ns/pods/p", "json"),
        ("DELETE", "/api/v1/namespaces/ns/pods?labelSelector=a%3Db", "json"),
        ("POST", "/api/v1/namespaces/ns/pods/p/binding", "json"),
        ("GET", "/apis/x.io/v1/things/t", ""),
    ]
    bodies = [body for *_, body in seen]
    assert {key: bodies[3][key] for key in pod_meta} == pod_meta
    assert bodies[6]["kind"] == "Deployment"
    assert bodies[7] == {
        **options,
        "preconditions": {"uid": "u"},
        "propagationPolicy": "Foreground",
        "gracePeriodSeconds": 0,
    }
    assert bodies[8] == options


async def test_names_and_namespaces_that_are_missing_are_refused_before_sending() -> None:
    async with Client(ClientConfig("http://127.0.0.1:9")) as client:
        pods = client.resource(Pod)
        for call in (
            pods.get("", "ns"),
            pods.get("p"),
            pods.create(Pod()),
            pods.delete("", "ns"),
            pods.delete_collection(),
        ):
            with pytest.raises(ValueError, match="is required"):
                await call


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(not_found("pods", "", "p"), id="not found"),
        pytest.param(conflict("pods", "", "p", "modified"), id="conflict"),
        pytest.param(ApiError(429, "TooManyRequests", "no time given"), id="busy, without a time"),
    ],
)
async def test_a_status_becomes_the_same_error(error: ApiError) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer_error(error)

    async with serving(handler) as url, Client(ClientConfig(url)) as client:
        with pytest.raises(ApiError) as caught:
            await client.resource(Pod).get("p", "ns")
    assert asdict(caught.value) == asdict(error)


async def test_an_answer_that_is_no_status_is_an_error_with_its_text() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=502, text="bad gateway")

    async with serving(handler) as url, Client(ClientConfig(url)) as client:
        with pytest.raises(ApiError, match="bad gateway") as caught:
            await client.request("GET", "/version")
    assert caught.value.status == 502


async def test_busy_answers_are_tried_again_when_the_server_says_when() -> None:
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        if calls < 3:
            status = (429, 503)[calls - 1]
            return answer_error(ApiError(status, "Busy", "later", None, {"Retry-After": "0"}))
        return web.json_response({"posted": (await request.read()).decode()})

    async with serving(handler) as url, Client(ClientConfig(url)) as client:
        answer = await client.request("POST", "/x", body=b"once")
    assert json.loads(answer) == {"posted": "once"}
    assert calls == 3


async def test_no_answer_is_an_api_connection_error() -> None:
    async def slow(request: web.Request) -> web.Response:
        if request.path == "/reset":
            assert request.transport is not None
            request.transport.abort()
        await asyncio.sleep(0.5)
        return web.Response()

    async with serving(slow) as url, Client(ClientConfig(url, request_timeout=0.1)) as client:
        for path in ("/slow", "/reset"):
            with pytest.raises(ApiConnectionError, match="no answer from 127"):
                await client.request("GET", path)
    async with Client(ClientConfig(url)) as client:
        with pytest.raises(ApiConnectionError):
            await client.request("GET", "/nobody/listens")
        with pytest.raises(ApiConnectionError):
            async for _ in client.resource(Pod).watch():
                pass


async def test_an_error_inside_a_stream_block_is_not_blamed_on_the_connection() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="log line")

    async with serving(handler) as url, Client(ClientConfig(url)) as client:
        with pytest.raises(BrokenPipeError):
            async with client.stream("GET", "/log") as response:
                assert await response.text() == "log line"
                raise BrokenPipeError("the reader of our output left")


async def test_requests_under_way_are_limited() -> None:
    at_once = most = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return web.json_response({})

    async with serving(handler) as url, Client(ClientConfig(url, max_in_flight=3)) as client:
        await asyncio.gather(*(client.request("GET", "/x") for _ in range(12)))
    assert most == 3


class Watched:
    """A list of config maps and scripted watches: each script is one watch call."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {"a": config_map("a", 5, v="1")}
        self.revision = 5
        self.lists = 0
        self.scripts: list[Callable[[web.StreamResponse, web.Request], Awaitable[None]]] = []
        self.watched_from: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") != "true":
            self.lists += 1
            meta = {"resourceVersion": str(self.revision)}
            return web.json_response({"metadata": meta, "items": [*self.objects.values()]})
        self.watched_from.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if self.scripts:
            await self.scripts.pop(0)(response, request)
            return response
        await asyncio.sleep(30)
        return response


def line(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def test_an_informer_survives_cuts_in_mid_line_and_410() -> None:
    watched = Watched()

    async def cut_in_mid_line(response: web.StreamResponse, request: web.Request) -> None:
        event = line("MODIFIED", config_map("a", 6, v="2"))
        await response.write(event[:40])
        await asyncio.sleep(0.01)
        await response.write(event[40:] + line("ADDED", config_map("b", 7, v="1"))[:60])
        await asyncio.sleep(0.01)
        assert request.transport is not None
        request.transport.abort()

    async def only_a_bookmark(response: web.StreamResponse, request: web.Request) -> None:
        await response.write(line("ADDED", config_map("b", 7, v="1")))
        await response.write(line("BOOKMARK", {"metadata": {"resourceVersion": "20"}}))

    async def history_is_gone(response: web.StreamResponse, request: web.Request) -> None:
        watched.objects = {"c": config_map("c", 30, v="1")}
        watched.revision = 30
        await response.write(line("ERROR", gone("too old resource version").to_status()))

    watched.scripts = [cut_in_mid_line, only_a_bookmark, history_is_gone]
    told: list[tuple[str, str]] = []
    done = asyncio.Event()

    def deleted(obj: ConfigMap) -> None:
        told.append(("-", obj.metadata.name))
        if len(told) == 6:
            done.set()

    async with (
        serving(watched.handle) as url,
        Client(ClientConfig(url)) as client,
        InformerFactory(client) as informers,
    ):
        informer = informers.informer(ConfigMap)
        informer.add_handler(
            on_add=lambda obj: told.append(("+", obj.metadata.name)),
            on_update=lambda old, new: told.append((old.data["v"], new.data["v"])),
            on_delete=deleted,
        )
        await informers.start()
        await informers.wait_synced()
        cached = informer.cache.get("ns/a")
        assert cached is not None
        assert cached.metadata.managedFields == []
        await asyncio.wait_for(done.wait(), 60)
    assert told[:4] == [("+", "a"), ("1", "2"), ("+", "b"), ("+", "c")]
    assert sorted(told[4:]) == [("-", "a"), ("-", "b")]
    assert watched.watched_from[:3] == ["5", "6", "20"]
    assert watched.lists == 2


async def test_metadata_and_dict_informers_share_the_connection_but_not_the_form() -> None:
    watched = Watched()
    async with (
        serving(watched.handle) as url,
        Client(ClientConfig(url)) as client,
        InformerFactory(client) as informers,
    ):
        partial = informers.metadata("", "v1", "configmaps")
        plain = informers.dynamic("", "v1", "configmaps")
        await informers.start()
        await informers.wait_synced()
        metadata_only, whole = partial.cache.get("ns/a"), plain.cache.get("ns/a")
    assert metadata_only is not None
    assert (metadata_only.kind, metadata_only.metadata.uid) == ("ConfigMap", "uid-a")
    assert whole is not None
    assert whole["data"] == {"v": "1"}
    assert "managedFields" not in whole["metadata"]


async def test_a_401_is_asked_again_once_with_rotated_credentials(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    async def handler(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer new":
            return answer_error(ApiError(401, "Unauthorized", "Unauthorized"))
        return web.json_response({})

    async with (
        serving(handler) as url,
        Client(ClientConfig(url, token_file=str(token))) as client,
    ):
        with pytest.raises(ApiError, match="Unauthorized"):
            await client.request("GET", "/x")
        token.write_text("new")
        assert await client.request("GET", "/x") == b"{}"


async def test_tls_shows_our_certificate_and_checks_the_servers(tmp_path: Path) -> None:
    certificate, key = make_server_certificate()
    (tmp_path / "crt").write_bytes(certificate)
    (tmp_path / "key").write_bytes(key)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=certificate.decode())
    tls.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    tls.verify_mode = ssl.CERT_REQUIRED

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert")
        return web.json_response({"subject": peer["subject"][0][0][1]})

    async with serving(handler, tls) as url:
        config = ClientConfig(url, ca=Pem(certificate), certificate=Pem(certificate), key=Pem(key))
        async with Client(config) as client:
            assert json.loads(await client.request("GET", "/x")) == {"subject": "navarch test"}
        async with Client(ClientConfig(url)) as client:
            with pytest.raises(ApiConnectionError, match="certificate"):
                await client.request("GET", "/x")
        wrong_name = ClientConfig(
            url, Pem(certificate), Pem(certificate), Pem(key), tls_server_name="other.example"
        )
        async with Client(wrong_name) as client:
            with pytest.raises(ApiConnectionError, match="certificate"):
                await client.request("GET", "/x")


def make_server_certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "navarch test")])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )

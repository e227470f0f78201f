"""A small extension API server, as sample-apiserver is: it verifies that requests come from the
front proxy, asks the main server who may do what, and keeps flunders in memory."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.api.conftest import Api

Object = dict[str, Any]

GROUP, VERSION = "wardle.example.com", "v1alpha1"
BASE = f"/apis/{GROUP}/{VERSION}"
SERVICE = "sample-api"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
RESOURCES = [
    {
        "name": "flunders",
        "singularName": "flunder",
        "namespaced": True,
        "kind": "Flunder",
        "verbs": ["create", "delete", "get", "list", "watch"],
        "shortNames": ["fl"],
    },
    {
        "name": "flunders/exec",
        "singularName": "",
        "namespaced": True,
        "kind": "Flunder",
        "verbs": ["get"],
    },
]
SWAGGER = {
    "swagger": "2.0",
    "info": {"title": "wardle", "version": "1"},
    "paths": {
        f"{BASE}/namespaces/{{namespace}}/flunders": {
            "get": {
                "operationId": "listFlunders",
                "produces": ["application/json"],
                "parameters": [
                    {"name": "body", "in": "body", "schema": {"$ref": "#/definitions/Flunder"}},
                    {"$ref": "#/parameters/limit-1"},
                ],
                "responses": {
                    "200": {"description": "OK", "schema": {"$ref": "#/definitions/Flunder"}}
                },
            }
        },
        "/apis/other.example.com/v1/": {"get": {"responses": {}}},
    },
    "definitions": {
        "Flunder": {"type": "object", "properties": {"spec": {"$ref": "#/definitions/Spec"}}},
        "Spec": {"type": "object", "description": "what a flunder wants"},
        "Unused": {"type": "object"},
    },
    "parameters": {"limit-1": {"name": "limit", "in": "query", "type": "integer"}},
}


def serving_certificate(directory: Path) -> Path:
    """A self-signed certificate made out to the Service; it is its own CA bundle."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVICE)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(f"{SERVICE}.default.svc")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "serving.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path = directory / "serving.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


class ExtensionServer:
    """Handles what the aggregator passes on. `asked` are the heads of all requests for objects."""

    def __init__(self, main: Api, allowed_names: list[str]) -> None:
        self.main = main
        self.allowed_names = allowed_names
        self.flunders: dict[str, Object] = {}
        self.watchers: list[asyncio.Queue[Object]] = []
        self.asked: list[web.BaseRequest] = []
        self.redirects_to = ""
        self.speaks_aggregated = True
        self.is_sick = False
        self.port = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.is_sick:
            return web.Response(status=500, text="sick")
        user = self._user_of(request)
        if user is None:
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        path = request.path.rstrip("/")
        if path == "/apis":
            return self._root(request)
        if path == BASE:
            body = {"kind": "APIResourceList", "groupVersion": f"{GROUP}/{VERSION}"}
            return web.json_response(body | {"apiVersion": "v1", "resources": RESOURCES})
        if path == "/openapi/v2":
            return web.json_response(SWAGGER)
        if not path.startswith(BASE):
            return web.Response(status=404, text="404 page not found\n")
        self.asked.append(request)
        if self.redirects_to:
            return web.Response(status=307, headers={"Location": self.redirects_to})
        if not await self._is_allowed(user, request):
            return web.json_response({"kind": "Status", "code": 403}, status=403)
        return await self._objects(request)

    def _user_of(self, request: web.BaseRequest) -> Object | None:
        """Whom the front proxy says, if it is the front proxy that says so."""
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert")
        if not certificate:
            return None
        subject = dict(pair for part in certificate["subject"] for pair in part)
        if subject.get("commonName") not in self.allowed_names:
            return None
        headers = request.headers
        return {
            "user": headers.get("X-Remote-User", ""),
            "uid": headers.get("X-Remote-Uid", ""),
            "groups": headers.getall("X-Remote-Group", []),
        }

    async def _is_allowed(self, user: Object, request: web.BaseRequest) -> bool:
        if "system:masters" in user["groups"]:
            return True
        verb = {"POST": "create", "DELETE": "delete"}.get(request.method, "list")
        attributes = {"group": GROUP, "resource": "flunders", "verb": verb}
        attributes["namespace"] = "default"
        review = {"spec": {**user, "resourceAttributes": attributes}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = await self.main.post(path, review)
        return bool(answer.ok(201)["status"].get("allowed"))

    def _root(self, request: web.BaseRequest) -> web.Response:
        accept = request.headers.get("Accept", "")
        if not self.speaks_aggregated or "as=APIGroupDiscoveryList" not in accept:
            return web.json_response({"kind": "APIGroupList", "groups": []})
        resource = {
            "resource": "flunders",
            "responseKind": {"group": "", "version": "", "kind": "Flunder"},
            "scope": "Namespaced",
            "singularResource": "flunder",
            "verbs": RESOURCES[0]["verbs"],
        }
        versions = [{"version": VERSION, "resources": [resource], "freshness": "Current"}]
        body = {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": "apidiscovery.k8s.io/v2",
            "items": [{"metadata": {"name": GROUP}, "versions": versions}],
        }
        return web.Response(
            body=json.dumps(body).encode(), headers={"Content-Type": AGGREGATED.format("v2")}
        )

    async def _objects(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.path.partition("/flunders")[2].strip("/")
        if name.endswith("/exec"):
            socket = web.WebSocketResponse(protocols=("echo",))
            await socket.prepare(request)
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    await socket.send_str(message.data.upper())
            return socket
        if request.method == "POST":
            obj = json.loads(await request.read())
            self.flunders[obj["metadata"]["name"]] = obj
            for queue in self.watchers:
                queue.put_nowait({"type": "ADDED", "object": obj})
            return web.json_response(obj, status=201)
        if request.query.get("watch"):
            return await self._watch(request)
        if name and name not in self.flunders:
            status = {"kind": "Status", "code": 404, "reason": "NotFound"}
            return web.json_response(status, status=404)
        if request.method == "DELETE":
            return web.json_response(self.flunders.pop(name))
        if name:
            return web.json_response(self.flunders[name])
        body = {"kind": "FlunderList", "apiVersion": f"{GROUP}/{VERSION}"}
        return web.json_response(body | {"items": list(self.flunders.values())})

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[Object] = asyncio.Queue()
        self.watchers.append(queue)
        try:
            while True:
                await response.write(json.dumps(await queue.get()).encode() + b"\n")
        finally:
            self.watchers.remove(queue)


@asynccontextmanager
async def extension_server(main: Api, directory: Path) -> AsyncIterator[ExtensionServer]:
    """One that trusts whom the main server's ConfigMap says."""
    name = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
    trust = (await main.get(name)).ok()["data"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(serving_certificate(directory))
    context.load_verify_locations(cadata=trust["requestheader-client-ca-file"])
    context.verify_mode = ssl.CERT_OPTIONAL
    server = ExtensionServer(main, json.loads(trust["requestheader-allowed-names"]))
    web_server = web.Server(server.handle, handler_cancellation=True)
    runner = web.ServerRunner(web_server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    assert site._server is not None
    server.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        await runner.cleanup()


def ca_bundle(directory: Path) -> str:
    return base64.b64encode((directory / "serving.crt").read_bytes()).decode()

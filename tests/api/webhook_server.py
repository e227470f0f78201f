"""A real HTTPS server for webhooks in this process, with an authority of its own."""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

Object = dict[str, Any]
Answer = Callable[[Object], Object]
"""From an AdmissionReview's request to the response, without its uid."""
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

ALLOW: Object = {"allowed": True}
SERVICE_NAME = "e2e-test-webhook.default.svc"


def allow(request: Object) -> Object:
    return dict(ALLOW)


def deny(message: str, **status: Any) -> Answer:
    return lambda request: {"allowed": False, "status": {"message": message, **status}}


def patch(*operations: Object) -> Answer:
    """Allows, and changes the object."""
    encoded = base64.b64encode(json.dumps(operations).encode()).decode()
    return lambda request: {"allowed": True, "patchType": "JSONPatch", "patch": encoded}


def add(path: str, value: Any) -> Object:
    return {"op": "add", "path": path, "value": value}


@dataclass
class WebhookServer:
    """Answers by path, and keeps every request it got."""

    port: int = 0
    ca_bundle: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    handlers: dict[str, Handler] = field(default_factory=dict)
    seen: list[tuple[str, Object]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    answered: set[Any] = field(default_factory=set)
    """Connections that a handler has answered on, if it minds."""

    def requests(self, path: str) -> list[Object]:
        """The review requests that came to a path."""
        return [each["request"] for where, each in self.seen if where == path]

    def client(self, path: str, host: str = "localhost") -> Object:
        """A `clientConfig` for a path."""
        return {"url": f"https://{host}:{self.port}{path}", "caBundle": self.ca_bundle}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.connections.add(request.transport)
        path = request.path
        if path in self.handlers:
            return await self.handlers[path](request)
        review = await request.json()
        self.seen.append((path, review))
        if path not in self.answers:
            raise web.HTTPNotFound
        response = {"uid": review["request"]["uid"], **self.answers[path](review["request"])}
        return web.json_response(
            {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}
        )


def certificates(directory: Path, *hosts: str) -> tuple[str, ssl.SSLContext]:
    """A bundle (base64 of PEM), and the TLS of a server whose certificate it vouches for."""
    now = datetime.now(UTC)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "webhook-test-ca")])

    def builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )

    constraints = x509.BasicConstraints(ca=True, path_length=None)
    root = builder(issuer, authority).add_extension(constraints, critical=True)
    certificate = root.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM)
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0])])
    leaf = builder(subject, key).add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = leaf.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM)
    path = directory / f"{hosts[0]}.pem"
    path.write_bytes(signed + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return base64.b64encode(certificate).decode(), context


@asynccontextmanager
async def webhook_server(directory: Path, host: str = "127.0.0.1") -> AsyncIterator[WebhookServer]:
    """A running server; `host` is the address it listens on."""
    bundle, context = certificates(directory, "localhost", "192.0.2.9", SERVICE_NAME)
    server = WebhookServer(ca_bundle=bundle)
    runner = web.ServerRunner(web.Server(server.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, ssl_context=context)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()

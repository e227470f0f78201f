"""The port where a component tells of itself: health, metrics, configuration (upstream's 10257 of
the controllers and 10259 of the scheduler).

Health is for everybody. For the rest callers say who they are, by a client certificate or a token
that the API server knows (TokenReview), and need the right to the path (SubjectAccessReview), as
with upstream's delegated authentication and authorization.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from navarch.api.errors import ApiError
from navarch.api.health import Check, HealthAnswer, HealthChecks
from navarch.api.types.authentication_v1 import TokenReview, TokenReviewSpec
from navarch.api.types.authorization_v1 import (
    NonResourceAttributes,
    SubjectAccessReview,
    SubjectAccessReviewSpec,
)
from navarch.client.client import Client

if TYPE_CHECKING:
    from aiohttp import web

HEALTH = ("healthz", "livez", "readyz")


class Secured(Protocol):
    """The options of a component that has a port of its own, by the names of upstream's flags."""

    @property
    def secure_port(self) -> int: ...
    @property
    def bind_address(self) -> str: ...
    @property
    def tls_cert_file(self) -> str: ...
    @property
    def tls_private_key_file(self) -> str: ...
    @property
    def client_ca_file(self) -> str: ...


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """Where to listen, and with which certificate."""

    port: int
    """0: nowhere; below 0: any that is free."""
    address: str = "0.0.0.0"
    certificate: str = ""
    key: str = ""
    client_ca: str = ""

    @classmethod
    def of(cls, options: Secured) -> ServingOptions:
        return cls(
            options.secure_port,
            options.bind_address,
            options.tls_cert_file,
            options.tls_private_key_file,
            options.client_ca_file,
        )


@dataclass(frozen=True, slots=True)
class Told:
    """What a component tells of itself."""

    config_name: str = ""
    """What `/configz` calls its configuration."""
    config: Callable[[], Any] = dict
    checks: Mapping[str, Check] = field(default_factory=dict)
    ready: Mapping[str, Check] = field(default_factory=dict)
    """Checks of `/readyz` only: what a new start would not mend."""


@asynccontextmanager
async def serving(client: Client, options: ServingOptions, told: Told) -> AsyncIterator[int]:
    """Serve meanwhile; yields the port. Raises ValueError without a certificate."""
    if not options.port:
        yield 0
        return
    if not options.certificate or not options.key:
        raise ValueError("a secure port needs a certificate and its key")
    # Two megabytes that those who do not serve can do without.
    from aiohttp import web

    server = _Server(client, told)
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    # Who asks while the API server is silent is not waited for when this process ends.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        port = max(options.port, 0)
        await web.TCPSite(runner, options.address, port, ssl_context=_context(options)).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _context(options: ServingOptions) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(options.certificate, options.key)
    if options.client_ca:
        context.load_verify_locations(options.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


class _Server:
    def __init__(self, client: Client, told: Told) -> None:
        self._client, self._told = client, told
        self._health = HealthChecks()
        self._checks: dict[str, Check] = {"ping": lambda: True, **told.checks}

    async def answer(self, request: web.Request) -> web.Response:
        from aiohttp import web

        path, _, name = request.match_info["path"].partition("/")
        if path in HEALTH:
            answer = self._healthy(request, path, name)
            return web.Response(status=answer.status, text=answer.text)
        try:
            await self._authorize(request)
        except ApiError as error:
            return web.json_response(error.to_status(), status=error.status)
        if request.path == "/metrics":
            from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

            return web.Response(
                body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST}
            )
        if request.path == "/metrics/slis":
            return web.Response(text="\n".join(self._health.metrics()) + "\n")
        if request.path == "/configz":
            document = {self._told.config_name: self._told.config()}
            return web.json_response(document, dumps=lambda value: json.dumps(value, default=str))
        return web.Response(status=404, text="404 page not found\n")

    def _healthy(self, request: web.Request, path: str, name: str) -> HealthAnswer:
        checks = self._checks | dict(self._told.ready) if path == "readyz" else self._checks
        if name:
            return self._health.one(path, name, checks)
        excluded = request.query.getall("exclude", [])
        return self._health.summary(path, checks, excluded, verbose="verbose" in request.query)

    async def _authorize(self, request: web.Request) -> None:
        """Raises ApiError 401 or 403."""
        spec = await self._caller(request)
        spec.nonResourceAttributes = NonResourceAttributes(
            path=request.path, verb=request.method.lower()
        )
        review = SubjectAccessReview(spec=spec)
        if not (await self._client.resource(SubjectAccessReview).create(review)).status.allowed:
            raise ApiError(
                403,
                "Forbidden",
                f'forbidden: User "{spec.user}" cannot {request.method.lower()} path '
                f'"{request.path}"',
            )

    async def _caller(self, request: web.Request) -> SubjectAccessReviewSpec:
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        if certificate:
            names = [pair for part in certificate["subject"] for pair in part]
            user = next((value for key, value in names if key == "commonName"), "")
            groups = [value for key, value in names if key == "organizationName"]
            return SubjectAccessReviewSpec(user=user, groups=[*groups, "system:authenticated"])
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return SubjectAccessReviewSpec(
                user="system:anonymous", groups=["system:unauthenticated"]
            )
        asked = TokenReview(spec=TokenReviewSpec(token=token.strip()))
        status = (await self._client.resource(TokenReview).create(asked)).status
        if not status.authenticated or status.user is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        found = status.user
        return SubjectAccessReviewSpec(
            user=found.username, groups=found.groups, uid=found.uid, extra=found.extra
        )

"""Who may ask the kubelet for what (upstream: kubelet authentication and authorization).

A client certificate of the cluster's CA or a bearer token (checked by a TokenReview) names the
caller; a SubjectAccessReview on the node's subresources decides. Nothing is anonymous.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from navarch.api.errors import ApiError, unauthorized
from navarch.api.types.authentication_v1 import TokenReview, TokenReviewSpec
from navarch.api.types.authorization_v1 import (
    ResourceAttributes,
    SubjectAccessReview,
    SubjectAccessReviewSpec,
)
from navarch.client.client import Client

CACHE_SECONDS = 10.0
SUPERUSERS = "system:masters"
SUBRESOURCE_OF_PATH = {"stats": "stats", "metrics": "metrics", "logs": "log", "healthz": "healthz"}
VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Caller:
    name: str
    groups: tuple[str, ...]


class Access(Protocol):
    async def check(self, method: str, path: str, certificate: bytes | None, token: str) -> None:
        """Let the request through, or raise ApiError 401 or 403."""
        ...


def caller_of_certificate(der: bytes) -> Caller:
    """The caller that a certificate names: common name and organizations."""
    # Ten megabytes that a node nobody asks for logs can do without.
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.load_der_x509_certificate(der).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    groups = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return Caller(
        str(names[0].value) if names else "",
        (*(str(group.value) for group in groups), "system:authenticated"),
    )


class DelegatedAccess:
    """Asks the API server, and remembers its answers for a few seconds."""

    def __init__(self, client: Client, node: str) -> None:
        self._client = client
        self._node = node
        self._callers: dict[bytes | str, tuple[float, Caller]] = {}
        self._allowed: dict[tuple[Caller, str, str], float] = {}

    async def check(self, method: str, path: str, certificate: bytes | None, token: str) -> None:
        caller = await self._caller(certificate, token)
        if SUPERUSERS in caller.groups:
            return
        subresource = SUBRESOURCE_OF_PATH.get(path.split("/")[1], "proxy")
        verb = VERBS.get(method, method.lower())
        question = (caller, verb, subresource)
        now = time.monotonic()
        if self._allowed.get(question, 0.0) > now:
            return
        review = SubjectAccessReview(
            spec=SubjectAccessReviewSpec(
                user=caller.name,
                groups=list(caller.groups),
                resourceAttributes=ResourceAttributes(
                    verb=verb, resource="nodes", subresource=subresource, name=self._node
                ),
            )
        )
        answer = await self._client.resource(SubjectAccessReview).create(review)
        if not answer.status.allowed:
            raise ApiError(
                403,
                "Forbidden",
                f"Forbidden (user={caller.name}, verb={verb}, resource=nodes, "
                f"subresource(s)=[{subresource}])",
            )
        if len(self._allowed) > 1000:
            self._allowed.clear()
        self._allowed[question] = now + CACHE_SECONDS

    async def _caller(self, certificate: bytes | None, token: str) -> Caller:
        credential = certificate or token
        if not credential:
            raise unauthorized()
        now = time.monotonic()
        known = self._callers.get(credential)
        if known is not None and known[0] > now:
            return known[1]
        if certificate is not None:
            caller = caller_of_certificate(certificate)
        else:
            review = TokenReview(spec=TokenReviewSpec(token=token))
            status = (await self._client.resource(TokenReview).create(review)).status
            if not status.authenticated or status.user is None:
                raise unauthorized()
            caller = Caller(status.user.username, tuple(status.user.groups))
        if len(self._callers) > 1000:
            self._callers.clear()
        self._callers[credential] = (now + CACHE_SECONDS, caller)
        return caller

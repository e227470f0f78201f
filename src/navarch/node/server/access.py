"""Who may ask the kubelet for what (upstream: kubelet authentication and authorization).

A client certificate of the cluster's CA or a bearer token (a TokenReview says whose) names the
caller; SubjectAccessReviews on the node's subresources decide, the finest subresource first and the
broad `proxy` last where upstream has both. Strangers are refused unless the node was told to let
them in as `system:anonymous`, who then needs rights as everybody else does.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from navarch.api.errors import ApiError, unauthorized
from navarch.api.types.authentication_v1 import TokenReview, TokenReviewSpec
from navarch.api.types.authorization_v1 import (
    ResourceAttributes,
    SubjectAccessReview,
    SubjectAccessReviewSpec,
)
from navarch.client.client import Client
from navarch.client.clock import Clock

log = logging.getLogger(__name__)

SUBRESOURCES = {
    "/pods": ("pods", "proxy"),
    "/runningpods": ("pods", "proxy"),
    "/healthz": ("healthz", "proxy"),
    "/configz": ("configz", "proxy"),
    "/stats": ("stats",),
    "/metrics": ("metrics",),
    "/logs": ("log",),
    "/checkpoint": ("checkpoint",),
    "/statusz": ("statusz",),
    "/flagz": ("configz",),
}
"""By the path they are for, with everything below it; all else is `proxy`."""
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
CACHE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """How callers are known and what they may do; lifetimes of answers in seconds."""

    anonymous: bool = False
    token_webhook: bool = True
    token_seconds: float = 120.0
    always_allow: bool = False
    allowed_seconds: float = 300.0
    denied_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Caller:
    name: str
    groups: tuple[str, ...]
    uid: str = ""
    extra: Mapping[str, list[str]] = field(default_factory=dict, compare=False, hash=False)


ANONYMOUS = Caller("system:anonymous", ("system:unauthenticated",))


class Access(Protocol):
    async def check(self, method: str, path: str, certificate: bytes | None, token: str) -> None:
        """Let the request through, or raise ApiError 401, 403 or 500."""
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


def subresources_of(path: str) -> tuple[str, ...]:
    """Which rights open a path: any one of these will do."""
    first = "/" + path.split("/")[1] if path.startswith("/") else path
    return SUBRESOURCES.get(first, ("proxy",))


K = TypeVar("K")
V = TypeVar("V")


class _Remembered(Generic[K, V]):
    """Answers for as long as each is good, and never more than `CACHE_SIZE` of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[K, tuple[float, V]] = {}

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        if entry is None or entry[0] <= self._clock.monotonic():
            return None
        return entry[1]

    def put(self, key: K, value: V, seconds: float) -> None:
        if len(self._entries) >= CACHE_SIZE:
            now = self._clock.monotonic()
            fresh = {each: entry for each, entry in self._entries.items() if entry[0] > now}
            # Full of what is still good: strangers' tokens, probably. Begin anew.
            self._entries = fresh if len(fresh) < CACHE_SIZE // 2 else {}
        self._entries[key] = (self._clock.monotonic() + seconds, value)


class DelegatedAccess:
    """Asks the API server, and remembers its answers for a while."""

    def __init__(self, client: Client, node: str, options: AccessOptions | None = None) -> None:
        self._client, self._node = client, node
        self._options = options if options is not None else AccessOptions()
        self._callers: _Remembered[bytes, Caller | str] = _Remembered(client.clock)
        """By the digest of a credential: a token itself need not lie in memory. An empty text is a
        token that is no good."""
        self._decisions: _Remembered[tuple[Caller, str, str], bool] = _Remembered(client.clock)

    async def check(self, method: str, path: str, certificate: bytes | None, token: str) -> None:
        caller = await self._caller(certificate, token)
        if self._options.always_allow:
            return
        verb, subresources = VERBS.get(method, ""), subresources_of(path)
        for subresource in subresources:
            if await self._is_allowed(caller, verb, subresource):
                return
        raise ApiError(
            403,
            "Forbidden",
            f"Forbidden (user={caller.name}, verb={verb}, resource=nodes, "
            f"subresource(s)=[{' '.join(subresources)}])\n",
        )

    async def _caller(self, certificate: bytes | None, token: str) -> Caller:
        if certificate is not None:
            known = self._callers.get(certificate)
            if not isinstance(known, Caller):
                known = caller_of_certificate(certificate)
                self._callers.put(certificate, known, self._options.token_seconds)
            return known
        if token:
            if self._options.token_webhook:
                return await self._owner_of(token)
            raise unauthorized()
        if self._options.anonymous:
            return ANONYMOUS
        raise unauthorized()

    async def _owner_of(self, token: str) -> Caller:
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._callers.get(key)
        if known is None:
            known = await self._review(token)
            self._callers.put(key, known, self._options.token_seconds)
        if isinstance(known, str):
            raise unauthorized()
        return known

    async def _review(self, token: str) -> Caller | str:
        review = TokenReview(spec=TokenReviewSpec(token=token))
        try:
            status = (await self._client.resource(TokenReview).create(review)).status
        except ApiError as error:
            log.warning("a token could not be checked: %s", error)
            raise unauthorized() from error
        if not status.authenticated or status.user is None:
            return ""
        user = status.user
        return Caller(user.username, tuple(user.groups), user.uid, user.extra)

    async def _is_allowed(self, caller: Caller, verb: str, subresource: str) -> bool:
        question = (caller, verb, subresource)
        known = self._decisions.get(question)
        if known is not None:
            return known
        review = SubjectAccessReview(
            spec=SubjectAccessReviewSpec(
                user=caller.name,
                groups=list(caller.groups),
                uid=caller.uid,
                extra=dict(caller.extra),
                resourceAttributes=ResourceAttributes(
                    verb=verb,
                    version="v1",
                    resource="nodes",
                    subresource=subresource,
                    name=self._node,
                ),
            )
        )
        try:
            answer = await self._client.resource(SubjectAccessReview).create(review)
        except ApiError as error:
            log.warning("rights of %s could not be checked: %s", caller.name, error)
            raise ApiError(
                500,
                "InternalError",
                f"Authorization error (user={caller.name}, verb={verb}, resource=nodes, "
                f"subresource={subresource})",
            ) from error
        allowed = answer.status.allowed
        options = self._options
        seconds = options.allowed_seconds if allowed else options.denied_seconds
        self._decisions.put(question, allowed, seconds)
        return allowed

"""Authentication: who makes this request? A client certificate, else a service-account token."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from navarch.api.errors import ApiError, unauthorized
from navarch.apiserver.authentication.claims import with_standing
from navarch.apiserver.authentication.front_proxy import (
    Authorities,
    FrontProxies,
    RequestHeaders,
)
from navarch.apiserver.authentication.keys import KeyRing
from navarch.apiserver.authentication.openid import jwks, openid_configuration
from navarch.apiserver.authentication.token_request import TokenIssuer, TokenPolicy
from navarch.apiserver.authentication.tokens import ServiceAccountTokens, TokenError
from navarch.apiserver.authentication.x509 import CertificateUsers
from navarch.apiserver.contracts import Lookup, PeerCertificate, UserInfo

__all__ = ["Authentication", "AuthenticationOptions", "build_authenticator"]

PeerUser = Callable[[Mapping[str, str], PeerCertificate], UserInfo | None]
_WEBSOCKET_TOKEN = "base64url.bearer.authorization.k8s.io."


@dataclass(frozen=True, slots=True)
class AuthenticationOptions:
    """How tokens are made and accepted.

    The first issuer signs, the others are accepted still (a change of issuer); audiences default to
    the issuers. `jwks_uri` is where others find the keys ("": at the issuer)."""

    signing_key_file: Path
    key_files: tuple[Path, ...] = ()
    issuers: tuple[str, ...] = ("https://kubernetes.default.svc.cluster.local",)
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    max_token_seconds: int = 0
    extend_pod_tokens: bool = True
    client_ca: Path | None = None
    requestheader_client_ca: Path | None = None
    requestheader_allowed_names: tuple[str, ...] = ()
    request_headers: RequestHeaders = field(default_factory=RequestHeaders)


@dataclass(frozen=True, slots=True)
class Authentication:
    """Implements `Authenticator`; `tokens` serves TokenReview, `issuer` TokenRequest, the two
    documents the OpenID paths."""

    certificates: CertificateUsers
    tokens: ServiceAccountTokens
    issuer: TokenIssuer
    openid_configuration: bytes
    jwks: bytes
    front_proxies: FrontProxies | None = None

    async def authenticate(
        self, headers: Mapping[str, str], peer: PeerCertificate | None
    ) -> UserInfo | None:
        """The first credential that names a user counts. One that is bad is no obstacle to
        another that is good, but without that it is an error, and not nobody."""
        failure: ApiError | None = None
        if peer is not None:
            for user_of in self._peer_users():
                try:
                    user = user_of(headers, peer)
                except ApiError as error:
                    failure = failure or error
                else:
                    if user is not None:
                        return with_standing(user)
        token = bearer_token(headers)
        if token is not None:
            try:
                return self.tokens.authenticate(token)
            except TokenError as error:
                raise unauthorized() from error
        if failure is not None:
            raise failure
        return None

    def _peer_users(self) -> Iterator[PeerUser]:
        if self.front_proxies is not None:
            yield self.front_proxies.user
        yield lambda _, peer: self.certificates.user(peer)


def bearer_token(headers: Mapping[str, str]) -> str | None:
    """The bearer token of a request: in its header or, for browsers, among the WebSocket
    subprotocols (base64url, without padding)."""
    parts = headers.get("Authorization", "").split()
    if len(parts) >= 2 and parts[0].lower() == "bearer":
        return parts[1]
    for protocol in headers.get("Sec-WebSocket-Protocol", "").split(","):
        encoded = protocol.strip()
        if encoded.startswith(_WEBSOCKET_TOKEN):
            data = encoded.removeprefix(_WEBSOCKET_TOKEN)
            try:
                return base64.urlsafe_b64decode(data + "=" * (-len(data) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError) as error:
                raise unauthorized() from error
    return None


def build_authenticator(
    options: AuthenticationOptions, lookup: Lookup, now: Callable[[], float] = time.time
) -> Authentication:
    """Load the keys and put the authenticators together. Raises OSError or ValueError when a key
    file is missing or unusable."""
    keys = KeyRing.load(options.signing_key_file, options.key_files)
    issuer = options.issuers[0]
    audiences = options.audiences or options.issuers
    policy = TokenPolicy(issuer, audiences, options.max_token_seconds, options.extend_pod_tokens)
    front_proxies = users_authority = None
    if options.requestheader_client_ca is not None:
        front_proxies = FrontProxies(
            Authorities(options.requestheader_client_ca.read_bytes()),
            frozenset(options.requestheader_allowed_names),
            options.request_headers,
        )
        users = options.client_ca.read_bytes() if options.client_ca is not None else b""
        users_authority = Authorities(users)
    return Authentication(
        CertificateUsers(now, users_authority),
        ServiceAccountTokens(keys, options.issuers, audiences, lookup, now),
        TokenIssuer(keys, policy, lookup, now),
        openid_configuration(issuer, options.jwks_uri or f"{issuer}/openid/v1/jwks", keys),
        jwks(keys),
        front_proxies,
    )

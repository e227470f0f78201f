"""Authentication: who makes this request? A front proxy or client certificate says, or a token."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from navarch.api.errors import ApiError, unauthorized
from navarch.apiserver.authentication.claims import with_standing
from navarch.apiserver.authentication.front_proxy import Authorities, FrontProxies, RequestHeaders
from navarch.apiserver.authentication.keys import KeyRing
from navarch.apiserver.authentication.kinds import ConfiguredIssuers, Setting, token_kinds
from navarch.apiserver.authentication.legacy_tokens import Used
from navarch.apiserver.authentication.openid import jwks, openid_configuration
from navarch.apiserver.authentication.token_request import TokenIssuer, TokenPolicy
from navarch.apiserver.authentication.tokens import ServiceAccountTokens, TokenError
from navarch.apiserver.authentication.union import AnyAudience, TokenUnion
from navarch.apiserver.authentication.x509 import CertificateUsers
from navarch.apiserver.contracts import Lookup, PeerCertificate, UserInfo
from navarch.apiserver.options import ServerOptions

__all__ = ["Authentication", "build_authenticator"]

_WEBSOCKET_TOKEN = "base64url.bearer.authorization.k8s.io."


@dataclass(frozen=True, slots=True)
class Authentication:
    """Implements `Authenticator`; `tokens` serves TokenReview, `issuer` TokenRequest, the two
    documents the OpenID paths. `issuers` are those of a configuration file."""

    certificates: CertificateUsers
    tokens: TokenUnion
    issuer: TokenIssuer
    openid_configuration: bytes
    jwks: bytes
    front_proxies: FrontProxies | None = None
    issuers: ConfiguredIssuers | None = None

    async def authenticate(
        self, headers: Mapping[str, str], peer: PeerCertificate | None
    ) -> UserInfo | None:
        """The first credential that names a user counts. One that is bad is no obstacle to
        another that is good, but without that it is an error, and not nobody."""
        failure: ApiError | None = None
        if peer is not None:
            try:
                user = self._peer_user(headers, peer)
                if user is not None:
                    return with_standing(user)
            except ApiError as error:
                failure = error
        token = bearer_token(headers)
        if token is not None:
            try:
                return (await self.tokens.verify(token)).user
            except TokenError as error:
                raise unauthorized() from error
        if failure is not None:
            raise failure
        return None

    def reload_authorities(self) -> None:
        """Read the files of authorities anew. Raises OSError or ValueError."""
        if self.front_proxies is not None:
            self.front_proxies.authorities.reload()
        if self.certificates.authorities is not None:
            self.certificates.authorities.reload()

    def _peer_user(self, headers: Mapping[str, str], peer: PeerCertificate) -> UserInfo | None:
        """The user that the peer speaks for as a front proxy, or is by its certificate. Raises
        ApiError 401 when it is neither."""
        proxies, failure, is_proxy = self.front_proxies, None, True
        if proxies is not None:
            is_proxy = proxies.authorities.vouch_for(peer)
            try:
                user = proxies.user(headers, peer) if is_proxy else None
                if user is not None:
                    return user
            except ApiError as error:
                failure = error
        try:
            user = self.certificates.user(peer)
        except ApiError as error:
            raise failure or error from None
        if user is None and (failure or not is_proxy):
            raise failure or unauthorized()
        return user


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
    options: ServerOptions,
    lookup: Lookup,
    now: Callable[[], float] = time.time,
    used: Used | None = None,
) -> Authentication:
    """Load the keys and put the authenticators together. Raises OSError or ValueError when a file
    is missing or unusable. `used` notes the day when a token of a secret was used."""
    signing_key = options.service_account_signing_key
    if signing_key is None:
        raise ValueError("the API server needs a key to sign service-account tokens with")
    keys = KeyRing.load(signing_key, options.service_account_keys)
    issuer = options.service_account_issuer
    issuers = (issuer, *options.service_account_further_issuers)
    audiences = options.api_audiences or issuers
    policy = TokenPolicy(
        issuer,
        audiences,
        options.service_account_max_token_expiration_seconds,
        options.service_account_extend_token_expiration,
    )
    accounts = ServiceAccountTokens(keys, issuers, audiences, lookup, now)
    setting = Setting(keys, lookup, AnyAudience(audiences), now, issuers, used)
    kinds = token_kinds(options, setting)
    jwks_uri = options.service_account_jwks_uri or f"{issuer}/openid/v1/jwks"
    front_proxies, users_authority = _front_proxies(options)
    return Authentication(
        CertificateUsers(now, users_authority),
        TokenUnion(audiences, accounts, kinds.before, kinds.after),
        TokenIssuer(keys, policy, lookup, now),
        openid_configuration(issuer, jwks_uri, keys),
        jwks(keys),
        front_proxies,
        kinds.issuers,
    )


def _front_proxies(options: ServerOptions) -> tuple[FrontProxies | None, Authorities | None]:
    """The front proxies and, where there are any, the authority that users have beside theirs."""
    if options.requestheader_client_ca_file is None:
        return None, None
    proxies = FrontProxies(
        Authorities(options.requestheader_client_ca_file),
        frozenset(options.requestheader_allowed_names),
        RequestHeaders.of(options),
    )
    return proxies, Authorities(options.client_ca)

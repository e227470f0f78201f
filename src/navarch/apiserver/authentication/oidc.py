"""OpenID Connect: tokens that somebody else's identity provider signs.

The provider publishes its keys: its discovery document names their address, and both are fetched
when they are first needed, kept, and fetched again when a token names a key that is not there. A
provider that is away makes its tokens bad and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import msgspec

from navarch.api.trust import trusting
from navarch.apiserver.authentication.claim_expressions import (
    ClaimExpressions,
    ExpressionFailed,
    check_rules,
    evaluate_text,
    evaluate_texts,
    user_value,
)
from navarch.apiserver.authentication.claims import CREDENTIAL_ID
from navarch.apiserver.authentication.configuration import JwtIssuer, PrefixedClaim
from navarch.apiserver.authentication.tokens import (
    INVALID,
    ForeignToken,
    TokenError,
    VerifiedToken,
    decode_payload,
)
from navarch.apiserver.authentication.union import AnyAudience
from navarch.apiserver.contracts import UserInfo
from navarch.apiserver.http.answer import read_answer

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
REFETCH_SECONDS = 10.0
"""At most so often are keys fetched: a token may name a key that was never there."""
FETCH_SECONDS = 10.0
MAX_DOCUMENT = 1024 * 1024
LEEWAY_SECONDS = 300.0

Fetch = Callable[[str], Any]
"""Gets a JSON document; an awaitable of its decoded content. Raises KeysUnavailable."""


class KeysUnavailable(Exception):
    """The provider could not be asked for its keys."""


class HttpsFetcher:
    """Fetches documents over TLS, from the authority given or those of the system. Redirects are
    not followed: the address stands in the configuration."""

    def __init__(self, authority: str) -> None:
        self._tls = trusting(authority)

    async def __call__(self, url: str) -> Any:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, ssl=self._tls, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise KeysUnavailable(f"{url} answers {response.status}")
                body = await read_answer(response.content, MAX_DOCUMENT)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise KeysUnavailable(f"{url}: {error or type(error).__name__}") from error
        if len(body) > MAX_DOCUMENT:
            raise KeysUnavailable(f"{url}: the document is too large")
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise KeysUnavailable(f"{url}: {error}") from error


class PublishedKeys:
    """The keys of one provider."""

    def __init__(
        self, issuer: str, discovery_url: str, fetch: Fetch, now: Callable[[], float]
    ) -> None:
        self._issuer = issuer
        self._discovery_url = discovery_url or (
            f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        )
        self._fetch = fetch
        self._now = now
        self._keys: list[jwt.PyJWK] = []
        self._fetched = float("-inf")
        self._lock = asyncio.Lock()

    async def candidates(self, key_id: str) -> list[jwt.PyJWK]:
        """The keys that may have signed a token. Raises KeysUnavailable."""
        found = self._matching(key_id)
        if found:
            return found
        async with self._lock:
            found = self._matching(key_id)
            if not found and self._now() - self._fetched >= REFETCH_SECONDS:
                self._fetched = self._now()
                self._keys = await self._read()
                found = self._matching(key_id)
        return found

    def _matching(self, key_id: str) -> list[jwt.PyJWK]:
        return [each for each in self._keys if not key_id or each.key_id == key_id]

    async def _read(self) -> list[jwt.PyJWK]:
        document = await self._fetch(self._discovery_url)
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            said = document.get("issuer") if isinstance(document, dict) else None
            raise KeysUnavailable(
                f"oidc: issuer did not match the issuer returned by provider, expected "
                f'"{self._issuer}" got "{said}"'
            )
        address = document.get("jwks_uri")
        if not isinstance(address, str) or not address.startswith("https://"):
            raise KeysUnavailable("provider did not return JWKS URL")
        found = await self._fetch(address)
        keys = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(keys, list):
            raise KeysUnavailable(f"{address} holds no keys")
        result = []
        for each in keys:
            try:
                result.append(jwt.PyJWK(each))
            except (jwt.PyJWTError, AttributeError, TypeError, ValueError):
                continue  # A key of a kind that we do not know is not for us.
        return result


class _Issued(msgspec.Struct):
    iss: str = ""


@dataclass(frozen=True, slots=True)
class OidcParts:
    """What an issuer's authenticator works with."""

    keys: PublishedKeys
    audience: AnyAudience
    now: Callable[[], float]
    algorithms: tuple[str, ...] = ALGORITHMS


class OidcTokens:
    """Implements `TokenAuthenticator` for one issuer. Raises ConfigurationError when an expression
    cannot be used."""

    def __init__(self, config: JwtIssuer, parts: OidcParts) -> None:
        self._config = config
        self._parts = parts
        self._expressions = ClaimExpressions(config)
        self._jws = jwt.PyJWS(algorithms=list(ALGORITHMS))

    async def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        unverified = decode_payload(token, _Issued)
        if unverified is None or unverified.iss != self._config.issuer.url:
            raise ForeignToken(INVALID)
        claims = await self._claims(token)
        try:
            user = self._user(claims)
        except ExpressionFailed as error:
            raise TokenError(f"oidc: error evaluating {error}") from error
        return VerifiedToken(user, self._parts.audience.matched(audiences))

    async def _claims(self, token: str) -> dict[str, Any]:
        """The claims of a token whose signature, audience and times are good."""
        try:
            header = self._jws.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise TokenError(f"oidc: verify token: {error}") from error
        algorithm = header.get("alg")
        if algorithm not in self._parts.algorithms:
            raise TokenError(
                f"oidc: verify token: oidc: id token signed with unsupported algorithm, expected "
                f'{list(self._parts.algorithms)} got "{algorithm}"'
            )
        try:
            keys = await self._parts.keys.candidates(header.get("kid") or "")
        except KeysUnavailable as error:
            raise TokenError(f"oidc: authenticator not initialized: {error}") from error
        payload = self._verified(token, keys, algorithm)
        try:
            # Numbers are what JSON's are to CEL: doubles.
            claims = json.loads(payload, parse_int=float)
        except ValueError as error:
            raise TokenError(f"oidc: parse claims: {error}") from error
        self._check(claims)
        return dict(claims)

    def _verified(self, token: str, keys: list[jwt.PyJWK], algorithm: str) -> bytes:
        for key in keys:
            if not _is_for(key, algorithm):
                continue
            try:
                payload: bytes = self._jws.decode(token, key.key, algorithms=[algorithm])
                return payload
            except jwt.PyJWTError:
                continue
        raise TokenError("oidc: verify token: failed to verify signature")

    def _check(self, claims: Mapping[str, Any]) -> None:
        now = self._parts.now()
        ends, begins = claims.get("exp"), claims.get("nbf")
        if not isinstance(ends, float) or ends < now:
            raise TokenError("oidc: verify token: oidc: token is expired")
        if begins is not None and not (
            isinstance(begins, float) and begins <= now + LEEWAY_SECONDS
        ):
            raise TokenError("oidc: verify token: oidc: current time is before the nbf time")
        said = claims.get("aud")
        given = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        wanted = self._config.issuer.audiences
        if not any(each in wanted for each in given):
            raise TokenError(f"oidc: verify token: oidc: expected audience in {wanted} got {given}")

    def _user(self, claims: dict[str, Any]) -> UserInfo:
        expressions, variables = self._expressions, {"claims": claims}
        mappings = self._config.claimMappings
        if expressions.username is not None:
            name = evaluate_text(expressions.username, variables, "username")
            if not name:
                raise TokenError("oidc: empty username via CEL expression is not allowed")
        else:
            name = _username(claims, mappings.username)
        groups = _groups(claims, mappings.groups)
        if expressions.groups is not None:
            groups = evaluate_texts(expressions.groups, variables)
        uid = _text(claims, mappings.uid.claim, "uid") if mappings.uid.claim else ""
        if expressions.uid is not None:
            uid = evaluate_text(expressions.uid, variables, "uid")
        extra: dict[str, tuple[str, ...]] = {}
        if isinstance(claims.get("jti"), str):
            extra[CREDENTIAL_ID] = (f"JTI={claims['jti']}",)
        for key, program in expressions.extra.items():
            if values := evaluate_texts(program, variables):
                extra[key] = tuple(values)
        for rule in self._config.claimValidationRules:
            if rule.claim:
                _require(claims, rule.claim, rule.requiredValue)
        check_rules(expressions.claim_rules, variables)
        user = UserInfo(name, uid, tuple(groups), extra)
        check_rules(expressions.user_rules, {"user": user_value(user)})
        return user


def _is_for(key: jwt.PyJWK, algorithm: str) -> bool:
    """Whether a key can have made a signature of this kind: RSA keys serve RS and PS alike."""
    if getattr(key, "public_key_use", None) not in (None, "sig"):
        return False
    if key.key_type == "RSA":
        return algorithm[:2] in ("RS", "PS")
    return key.key_type == "EC" and key.algorithm_name == algorithm


def _username(claims: Mapping[str, Any], mapping: PrefixedClaim) -> str:
    name = _text(claims, mapping.claim, "username")
    if mapping.claim == "email":
        # https://openid.net/specs/openid-connect-core-1_0.html#StandardClaims
        is_verified = claims.get("email_verified", True)
        if is_verified is not True:
            raise TokenError("oidc: email not verified")
    return (mapping.prefix or "") + name


def _groups(claims: Mapping[str, Any], mapping: PrefixedClaim) -> list[str]:
    value = claims.get(mapping.claim) if mapping.claim else None
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise TokenError(f'oidc: parse groups claim "{mapping.claim}": not a list of strings')
    return [(mapping.prefix or "") + each for each in found]


def _text(claims: Mapping[str, Any], claim: str, what: str) -> str:
    if claim not in claims:
        raise TokenError(f'oidc: parse {what} claims "{claim}": claim not present')
    value = claims[claim]
    if not isinstance(value, str):
        raise TokenError(f'oidc: parse {what} claims "{claim}": not a string')
    return value


def _require(claims: Mapping[str, Any], claim: str, wanted: str) -> None:
    if claim not in claims:
        raise TokenError(f"oidc: required claim {claim} not present in ID token")
    if claims[claim] != wanted:
        raise TokenError(
            f"oidc: required claim {claim} value does not match. Got = {claims[claim]}, "
            f"want = {wanted}"
        )

"""Service-account tokens: is this one good, and whose is it?

A token is good while its signature, issuer, audience and times are, and while the service account
and the pod, secret or node it is bound to still exist with the same uid. The signature is checked
once per token and remembered; the bound objects are looked at again every `RECHECK_SECONDS`, which
is thus how long a token can outlive its pod (upstream: ten seconds).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jwt
import msgspec

from navarch.api.times import parse_time
from navarch.apiserver.authentication.claims import (
    AUTHENTICATED,
    CREDENTIAL_ID,
    EXTRA_PREFIX,
    USER_PREFIX,
    Claims,
    Reference,
    service_account_groups,
)
from navarch.apiserver.authentication.keys import KeyRing
from navarch.apiserver.authorization.rules import quoted_list
from navarch.apiserver.contracts import Lookup, Object, UserInfo

T = TypeVar("T")

RECHECK_SECONDS = 2.0
LEEWAY_SECONDS = 60.0
"""How far clocks may differ, and how long after its deletion time an object still counts."""
CACHE_LIMIT = 8192


INVALID = "invalid bearer token"


class TokenError(Exception):
    """A token that is no good, and why; the reason is told to TokenReview only."""


class ForeignToken(TokenError):
    """A token of another kind than was looked for."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    user: UserInfo
    audiences: tuple[str, ...]


@dataclass(slots=True)
class _Known:
    """A token whose signature was good."""

    claims: Claims
    user: UserInfo
    checked: float


class ServiceAccountTokens:
    """Verifies tokens. `issuers` are all accepted ones, `audiences` those of this API server."""

    def __init__(
        self,
        keys: KeyRing,
        issuers: Sequence[str],
        audiences: Sequence[str],
        lookup: Lookup,
        now: Callable[[], float],
    ) -> None:
        self.keys = keys
        self.audiences = tuple(audiences)
        self._issuers = frozenset(issuers)
        self._lookup = lookup
        self._now = now
        self._jws = jwt.PyJWS()
        self._known: dict[str, _Known] = {}

    def verify(self, token: str, audiences: Sequence[str] = ()) -> VerifiedToken:
        """Whose token it is, for any of the audiences given (none: this API server's). Raises
        TokenError."""
        known = self._check(token)
        matched = self._match_audiences(known.claims, tuple(audiences) or self.audiences)
        return VerifiedToken(known.user, matched)

    def _check(self, token: str) -> _Known:
        now = self._now()
        known = self._known.get(token)
        if known is None:
            claims = self._read(token)
            known = _Known(claims, _user(claims), float("-inf"))
        try:
            _check_times(known.claims, now)
            if now - known.checked > RECHECK_SECONDS:
                self._check_objects(known.claims, now)
                known.checked = now
        except TokenError:
            self._known.pop(token, None)
            raise
        if token not in self._known:
            if len(self._known) >= CACHE_LIMIT:
                self._known.clear()
            self._known[token] = known
        return known

    def _read(self, token: str) -> Claims:
        """The claims of a token whose signature is good.

        The issuer is looked at before the signature: a foreign token is not an error of ours, and
        is not worth the arithmetic."""
        unverified = decode_payload(token, Claims)
        if unverified is None or unverified.iss not in self._issuers:
            raise ForeignToken(INVALID)
        payload = verified_payload(self._jws, self.keys, token)
        return msgspec.json.decode(payload, type=Claims)

    def _match_audiences(self, claims: Claims, wanted: tuple[str, ...]) -> tuple[str, ...]:
        offered = claims.audiences() or self.audiences
        matched = tuple(audience for audience in offered if audience in wanted)
        if not matched:
            raise TokenError(
                f"[invalid bearer token, token audiences {quoted_list(offered)} is invalid "
                f"for the target audiences {quoted_list(wanted)}]"
            )
        return matched

    def _check_objects(self, claims: Claims, now: float) -> None:
        bound = claims.kubernetes
        namespace, account = bound.namespace, bound.serviceaccount
        self._check_object("serviceaccounts", namespace, account, now)
        if bound.secret is not None:
            self._check_object("secrets", namespace, bound.secret, now)
        if bound.pod is not None:
            self._check_object("pods", namespace, bound.pod, now)
        elif bound.node is not None:
            self._check_object("nodes", "", bound.node, now)

    def _check_object(self, resource: str, namespace: str, ref: Reference, now: float) -> None:
        obj = self._lookup.get(resource, namespace, ref.name)
        if obj is None:
            if resource == "serviceaccounts":
                why = f'serviceaccounts "{ref.name}" not found'
            else:
                why = "service account token has been invalidated"
            raise TokenError(f"[invalid bearer token, {why}]")
        uid = obj["metadata"].get("uid", "")
        if uid != ref.uid:
            what = "service account" if resource == "serviceaccounts" else resource[:-1]
            claim = "" if resource == "serviceaccounts" else f"service account {what} ref "
            why = f"{what} UID ({uid}) does not match {claim}claim ({ref.uid})"
            raise TokenError(f"[invalid bearer token, {why}]")
        if _deleted_before(obj, now - LEEWAY_SECONDS):
            raise TokenError("[invalid bearer token, service account token has been invalidated]")


def decode_payload(token: str, kind: type[T]) -> T | None:
    """What a token claims, unverified; None if it is no token of this kind."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        data = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(data, type=kind)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None


def verified_payload(jws: jwt.PyJWS, keys: KeyRing, token: str) -> bytes:
    """The payload of a token that one of our keys signed. The algorithm is the key's, never the
    token's. Raises TokenError."""
    try:
        key_id = jws.get_unverified_header(token).get("kid") or ""
    except jwt.InvalidTokenError as error:
        raise ForeignToken(INVALID) from error
    candidates = keys.candidates(key_id)
    if not candidates:
        raise TokenError(f"[{INVALID}, invalid signature, no keys found]")
    problem: Exception | None = None
    for key in candidates:
        try:
            payload: bytes = jws.decode(token, key.key, algorithms=[key.algorithm])
            return payload
        except jwt.InvalidTokenError as error:
            problem = error
    raise TokenError(f"[{INVALID}, {problem}]") from problem


def _check_times(claims: Claims, now: float) -> None:
    why = ""
    if claims.exp is not None and now - LEEWAY_SECONDS > claims.exp:
        why = "service account token has expired"
    elif claims.nbf is not None and now + LEEWAY_SECONDS < claims.nbf:
        why = "service account token is not valid yet"
    elif claims.iat is not None and now + LEEWAY_SECONDS < claims.iat:
        why = "service account token is issued in the future"
    if why:
        raise TokenError(f"[invalid bearer token, {why}]")


def _deleted_before(obj: Object, moment: float) -> bool:
    deleted = obj["metadata"].get("deletionTimestamp")
    return bool(deleted) and parse_time(deleted).timestamp() < moment


def _user(claims: Claims) -> UserInfo:
    bound = claims.kubernetes
    extra: dict[str, tuple[str, ...]] = {}
    if claims.jti:
        extra[CREDENTIAL_ID] = (f"JTI={claims.jti}",)
    for kind, ref in (("pod", bound.pod), ("node", bound.node)):
        if ref is not None:
            extra[f"{EXTRA_PREFIX}{kind}-name"] = (ref.name,)
            if ref.uid:
                extra[f"{EXTRA_PREFIX}{kind}-uid"] = (ref.uid,)
    return UserInfo(
        f"{USER_PREFIX}{bound.namespace}:{bound.serviceaccount.name}",
        bound.serviceaccount.uid,
        (*service_account_groups(bound.namespace), AUTHENTICATED),
        extra,
    )

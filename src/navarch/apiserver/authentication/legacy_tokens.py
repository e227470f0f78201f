"""Tokens that stand in secrets of type `kubernetes.io/service-account-token`.

They have no end; they are good while the secret holds them, unchanged, and while the account is
there. The day of their last use is a label of the secret, by which unused ones are found, and one
that a controller marked as invalid is refused until the mark is taken off (KEP-2799).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import jwt
import msgspec

from navarch.api.errors import ApiError
from navarch.apiserver.authentication.claims import (
    AUTHENTICATED,
    service_account_groups,
    split_service_account,
)
from navarch.apiserver.authentication.keys import KeyRing
from navarch.apiserver.authentication.tokens import (
    INVALID,
    ForeignToken,
    TokenError,
    VerifiedToken,
    decode_payload,
    verified_payload,
)
from navarch.apiserver.authentication.union import AnyAudience
from navarch.apiserver.bootstrap import Access
from navarch.apiserver.contracts import Lookup, Object, UserInfo

ISSUER = "kubernetes/serviceaccount"
LAST_USED = "kubernetes.io/legacy-token-last-used"
INVALID_SINCE = "kubernetes.io/legacy-token-invalid-since"
TRACKING = "kube-apiserver-legacy-service-account-token-tracking"
MAX_PENDING = 1000
_PREFIX = "kubernetes.io/serviceaccount/"

Used = Callable[[str, str, str], None]
"""Notes that the token of a secret (namespace, name) was used on a day."""


class LegacyClaims(msgspec.Struct):
    iss: str = ""
    sub: str = ""
    namespace: str = msgspec.field(default="", name=f"{_PREFIX}namespace")
    secret: str = msgspec.field(default="", name=f"{_PREFIX}secret.name")
    account: str = msgspec.field(default="", name=f"{_PREFIX}service-account.name")
    account_uid: str = msgspec.field(default="", name=f"{_PREFIX}service-account.uid")


class LegacyTokens:
    """Implements `TokenAuthenticator`. The signature is checked with every use: these tokens are
    few, and revoked by deleting a secret, which must count at once."""

    def __init__(
        self,
        keys: KeyRing,
        lookup: Lookup,
        audience: AnyAudience,
        now: Callable[[], float],
        used: Used | None = None,
    ) -> None:
        self._keys = keys
        self._lookup = lookup
        self._audience = audience
        self._now = now
        self._used = used
        self._jws = jwt.PyJWS()

    async def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        unverified = decode_payload(token, LegacyClaims)
        if unverified is None or unverified.iss != ISSUER:
            raise ForeignToken(INVALID)
        payload = verified_payload(self._jws, self._keys, token)
        claims = msgspec.json.decode(payload, type=LegacyClaims)
        for name, value in (
            ("sub", claims.sub),
            ("namespace", claims.namespace),
            ("secretName", claims.secret),
            ("serviceAccountName", claims.account),
            ("serviceAccountUID", claims.account_uid),
        ):
            if not value:
                raise TokenError(f"{name} claim is missing")
        if split_service_account(claims.sub) != (claims.namespace, claims.account):
            raise TokenError("sub claim is invalid")
        secret = self._secret(claims, token)
        self._check_account(claims)
        self._note_use(secret)
        since = (secret["metadata"].get("labels") or {}).get(INVALID_SINCE)
        if since:
            where = f"{claims.namespace}/{claims.secret}"
            raise TokenError(
                f"the token in secret {where} for service account "
                f"{claims.namespace}/{claims.account} has been marked invalid. Use tokens from the "
                "TokenRequest API or manually created secret-based tokens, or remove the "
                f"'{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            )
        groups = (*service_account_groups(claims.namespace), AUTHENTICATED)
        user = UserInfo(claims.sub, claims.account_uid, groups)
        return VerifiedToken(user, self._audience.matched(audiences))

    def _secret(self, claims: LegacyClaims, token: str) -> Object:
        secret = self._lookup.get("secrets", claims.namespace, claims.secret)
        if secret is None or secret["metadata"].get("deletionTimestamp"):
            raise TokenError("Token has been invalidated")
        try:
            held = base64.b64decode((secret.get("data") or {}).get("token", ""))
        except binascii.Error:
            held = b""
        if not hmac.compare_digest(held, token.encode()):
            raise TokenError("Token does not match server's copy")
        return secret

    def _check_account(self, claims: LegacyClaims) -> None:
        account = self._lookup.get("serviceaccounts", claims.namespace, claims.account)
        if account is None:
            raise TokenError(f'serviceaccounts "{claims.account}" not found')
        if account["metadata"].get("deletionTimestamp"):
            where = f"{claims.namespace}/{claims.account}"
            raise TokenError(f"ServiceAccount {where} has been deleted")
        uid = account["metadata"].get("uid", "")
        if uid != claims.account_uid:
            why = f"ServiceAccount UID ({uid}) does not match claim ({claims.account_uid})"
            raise TokenError(why)

    def _note_use(self, secret: Object) -> None:
        """Once a day: the clocks of several API servers may differ, so tomorrow is good as well."""
        if self._used is None:
            return
        metadata = secret["metadata"]
        now = datetime.fromtimestamp(self._now(), UTC)
        days = [f"{now + timedelta(days=number):%Y-%m-%d}" for number in (0, 1)]
        if (metadata.get("labels") or {}).get(LAST_USED) not in days:
            self._used(metadata["namespace"], metadata["name"], days[0])


async def keep_tracking_since(access: Access, now: datetime) -> None:
    """Keep the note of the day since which uses are written down: what was not used before it may
    have been used all the same."""
    if access.lookup.get("configmaps", "kube-system", TRACKING) is not None:
        return
    noted = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": TRACKING, "namespace": "kube-system"},
        "data": {"since": f"{now:%Y-%m-%d}"},
    }
    try:
        await access.create("configmaps", noted)
    except ApiError as error:
        if not error.is_already_exists:
            raise


class LastUses:
    """Days of last use that are still to be written, each secret once."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, str], str] = {}

    def note(self, namespace: str, name: str, day: str) -> None:
        if len(self._pending) < MAX_PENDING:
            self._pending[namespace, name] = day

    async def turn(self, write: Callable[[str, str, str], Awaitable[object]]) -> None:
        """`write` labels a secret; raises ApiError."""
        pending, self._pending = self._pending, {}
        for (namespace, name), day in pending.items():
            try:
                await write(namespace, name, day)
            except ApiError as error:
                if not (error.status == 404 or error.is_conflict):
                    raise

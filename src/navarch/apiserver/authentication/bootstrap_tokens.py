"""Bootstrap tokens (KEP-130): by them a machine that has nothing yet asks for its certificate.

A token `<id>.<secret>` stands in the secret `bootstrap-token-<id>` of kube-system, with its uses,
its end and more groups of `system:bootstrappers:`. Its user may do nothing but what a binding gives
these groups. Whatever is wrong with the secret, the token is then simply unknown: who guesses ids
learns nothing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable

from navarch.api.times import TimeError, parse_time
from navarch.apiserver.authentication.tokens import INVALID, ForeignToken, VerifiedToken
from navarch.apiserver.authentication.union import AnyAudience
from navarch.apiserver.contracts import Lookup, Object, UserInfo

TYPE = "bootstrap.kubernetes.io/token"
USER_PREFIX = "system:bootstrap:"
GROUP = "system:bootstrappers"
_TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


class BootstrapTokens:
    """Implements `TokenAuthenticator`."""

    def __init__(self, lookup: Lookup, audience: AnyAudience, now: Callable[[], float]) -> None:
        self._lookup = lookup
        self._audience = audience
        self._now = now

    async def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        match = _TOKEN.fullmatch(token)
        secret = None
        if match is not None:
            name = f"bootstrap-token-{match[1]}"
            secret = self._lookup.get("secrets", "kube-system", name)
        if match is None or secret is None:
            raise ForeignToken(INVALID)
        user = bootstrap_user(secret, match[1], match[2], self._now())
        if user is None:
            raise ForeignToken(INVALID)
        return VerifiedToken(user, self._audience.matched(audiences))


def bootstrap_user(secret: Object, token_id: str, token: str, now: float) -> UserInfo | None:
    """The user of a token by its secret, None when the two do not go together."""
    if secret["metadata"].get("deletionTimestamp") or secret.get("type") != TYPE:
        return None
    try:
        data = {
            key: base64.b64decode(value).decode()
            for key, value in (secret.get("data") or {}).items()
        }
        ends = data.get("expiration")
        is_over = bool(ends) and parse_time(ends or "").timestamp() <= now
    except (binascii.Error, UnicodeDecodeError, TimeError):
        return None
    is_it = hmac.compare_digest(data.get("token-secret", ""), token)
    is_usable = data.get("usage-bootstrap-authentication") == "true"
    if not is_it or data.get("token-id") != token_id or is_over or not is_usable:
        return None
    listed = data.get("auth-extra-groups", "")
    extra = listed.split(",") if listed else []
    if not all(_GROUP.fullmatch(group) for group in extra):
        return None
    return UserInfo(f"{USER_PREFIX}{token_id}", groups=tuple(sorted({GROUP, *extra})))

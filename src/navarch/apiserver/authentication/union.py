"""All kinds of bearer tokens, asked one after the other.

The order is upstream's: token file, service accounts (old and bound), bootstrap tokens, OpenID
Connect, webhook. The first that knows a token decides whose it is. One that finds fault with a
token of its own kind does not stop the others; its reason is what TokenReview tells in the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from navarch.apiserver.authentication.claims import with_standing
from navarch.apiserver.authentication.tokens import (
    INVALID,
    ForeignToken,
    ServiceAccountTokens,
    TokenError,
    VerifiedToken,
)

CACHE_SECONDS = 10.0
CACHE_LIMIT = 4096


class TokenAuthenticator(Protocol):
    """One kind of token."""

    async def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        """Whose token it is, for which of the audiences. Raises ForeignToken when it is not of
        this kind, TokenError when it is and is no good."""
        ...


class AnyAudience:
    """For tokens that say nothing of audiences: they are good for this API server's own."""

    def __init__(self, own: Sequence[str]) -> None:
        self._own = tuple(own)

    def matched(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Raises ForeignToken when none of the wanted audiences is ours."""
        matched = tuple(each for each in self._own if each in wanted)
        if not matched:
            raise ForeignToken(INVALID)
        return matched


class Cached:
    """Remembers good tokens for a while, by their hash: what is dear to verify is verified seldom,
    and a token that is taken back is good for no longer than that."""

    def __init__(
        self, inner: TokenAuthenticator, now: Callable[[], float], seconds: float = CACHE_SECONDS
    ) -> None:
        self._inner = inner
        self._now = now
        self._seconds = seconds
        self._known: dict[tuple[bytes, tuple[str, ...]], tuple[float, VerifiedToken]] = {}

    async def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        key = (hashlib.sha256(token.encode(errors="replace")).digest(), audiences)
        found = self._known.get(key)
        if found is not None and self._now() < found[0]:
            return found[1]
        verified = await self._inner.verify(token, audiences)
        if len(self._known) >= CACHE_LIMIT:
            self._known.clear()
        self._known[key] = (self._now() + self._seconds, verified)
        return verified


class TokenUnion:
    """Every kind there is. `audiences` are those of this API server."""

    def __init__(
        self,
        audiences: Sequence[str],
        service_accounts: ServiceAccountTokens,
        before: Sequence[TokenAuthenticator] = (),
        after: Sequence[TokenAuthenticator] = (),
    ) -> None:
        self.audiences = tuple(audiences)
        self._accounts = service_accounts
        self._before = tuple(before)
        self._after = tuple(after)

    async def verify(self, token: str, audiences: Sequence[str] = ()) -> VerifiedToken:
        """Whose token it is, for any of the audiences (none given: ours). Raises TokenError."""
        wanted = tuple(audiences) or self.audiences
        reasons: list[str] = []
        for kind in self._before:
            if (found := await _asked(kind, token, wanted, reasons)) is not None:
                return found
        try:
            return self._accounts.verify(token, wanted)
        except ForeignToken:
            pass
        except TokenError as error:
            reasons.append(str(error))
        for kind in self._after:
            if (found := await _asked(kind, token, wanted, reasons)) is not None:
                return found
        if len(reasons) == 1:
            raise TokenError(reasons[0])
        plain = [each.removeprefix(f"[{INVALID}, ").removesuffix("]") for each in reasons]
        raise TokenError(f"[{', '.join([INVALID, *plain])}]" if reasons else INVALID)


async def _asked(
    kind: TokenAuthenticator, token: str, wanted: tuple[str, ...], reasons: list[str]
) -> VerifiedToken | None:
    try:
        found = await kind.verify(token, wanted)
    except ForeignToken:
        return None
    except TokenError as error:
        text = str(error)
        reasons.append(text if text.startswith("[") else f"[{INVALID}, {text}]")
        return None
    return VerifiedToken(with_standing(found.user), found.audiences)

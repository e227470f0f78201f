"""Service-account tokens for pods: bound to the pod, fetched once, renewed in time.

A token is renewed when 80 % of its life is over or it is a day old, as upstream does, so that a
process that reads the file now and then never holds an expired one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from navarch.api.errors import ApiError
from navarch.api.times import parse_time
from navarch.api.types.authentication_v1 import (
    BoundObjectReference,
    TokenRequest,
    TokenRequestSpec,
    TokenRequestStatus,
)
from navarch.api.types.core_v1 import Pod
from navarch.client.batches import together
from navarch.client.clock import Clock

from ..objects import Objects
from .payload import TokenWish

log = logging.getLogger(__name__)

MAXIMUM_AGE = timedelta(hours=24)
RENEWAL_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class _Held:
    status: TokenRequestStatus
    renew_at: float
    expires_at: float


class PodTokens:
    """The tokens of all pods on this node, in memory only."""

    def __init__(self, objects: Objects, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock
        self._held: dict[str, dict[TokenWish, _Held]] = {}

    async def get(self, pod: Pod, wishes: frozenset[TokenWish]) -> dict[TokenWish, str]:
        """A valid token for each wish."""
        return {wish: each.token for wish, each in (await self.statuses(pod, wishes)).items()}

    async def statuses(
        self, pod: Pod, wishes: frozenset[TokenWish]
    ) -> dict[TokenWish, TokenRequestStatus]:
        """The same, with the time each token ends."""
        ordered = list(wishes)
        found = await together(*(self._one(pod, wish) for wish in ordered))
        return dict(zip(ordered, found, strict=True))

    def forget(self, pod_uid: str) -> None:
        self._held.pop(pod_uid, None)

    async def _one(self, pod: Pod, wish: TokenWish) -> TokenRequestStatus:
        held = self._held.setdefault(pod.metadata.uid, {})
        now = self._clock.now()
        known = held.get(wish)
        if known is not None and now.timestamp() < known.renew_at:
            return known.status
        request = TokenRequest(
            spec=TokenRequestSpec(
                audiences=[wish.audience] if wish.audience else [],
                expirationSeconds=wish.expiration_seconds,
                boundObjectRef=BoundObjectReference(
                    kind="Pod", apiVersion="v1", name=pod.metadata.name, uid=pod.metadata.uid
                ),
            )
        )
        try:
            answer = await self._objects.token(
                pod.metadata.namespace, pod.spec.serviceAccountName, request
            )
        except ApiError as error:
            if known is None or known.expires_at <= now.timestamp():
                raise
            log.warning("token of %s is not renewed yet: %s", pod.metadata.name, error)
            return known.status
        expires = answer.status.expirationTimestamp
        life = parse_time(expires) - now if expires else MAXIMUM_AGE
        # What the pod asked for decides when to renew: the issuer may extend the life of a token
        # for processes that never read it again.
        life = min(life, timedelta(seconds=wish.expiration_seconds))
        renew_in = min(life * RENEWAL_SHARE, MAXIMUM_AGE)
        held[wish] = _Held(answer.status, (now + renew_in).timestamp(), (now + life).timestamp())
        return answer.status
